from biformer_mm.datasets.checks import folders


def test_walk_lists_files_as_the_frameworks_do(tmp_path):
    from mmengine.fileio import list_dir_or_file

    for name in ('a.jpg', '.hidden.jpg', 'b/c/d.jpg', '.cache/e.jpg', 'b/.f.jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'link').symlink_to(tmp_path / 'b')
    expected = sorted(list_dir_or_file(str(tmp_path), list_dir=False, recursive=True))
    assert sorted(folders.walk(str(tmp_path))) == expected
    assert expected == ['.cache/e.jpg', 'a.jpg', 'b/c/d.jpg', 'link/c/d.jpg']
    assert list(folders.walk(str(tmp_path / 'nowhere'))) == []


def test_the_outermost_hidden_folder_of_a_path():
    assert folders.hidden_part('a/.b/c/@eaDir/d.jpg') == 'a/.b'
    assert folders.hidden_part('a/b/.c.jpg') == ''


def test_lost_pictures_are_those_that_are_not_read_otherwise():
    skipped = ['a/1.webp', 'a/2.webp', '.cache/3.webp']
    assert folders.lost_pictures(skipped, ['a/1.jpg', 'b/2.jpg']) == ['a/2.webp']
