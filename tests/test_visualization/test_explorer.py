"""The routing explorer, read in a real browser."""

import re
import shutil

import numpy as np
import pytest
import torch
from playwright.sync_api import expect, sync_playwright

from biformer_mm.models import BiFormer
from biformer_mm.utils.errors import UsageError
from biformer_mm.visualization import record_routing
from biformer_mm.visualization.explorer import token_rounds, write_explorer

S = 4
ARCH = dict(
    embed_dims=(16, 16, 32, 32),
    depths=(1, 2, 2, 1),
    topks=(1, 4, 8, None),
    mlp_ratio=2,
    head_dim=8,
    stem='conv',
    pos_conv=True,
)
# S divides the map of stage 1 alone; on stage 3's, 5 x 7, the regions of the
# last row lie wholly in the padding and those of the last column in part.
IMAGE_SIZE = (80, 112)
PICTURE_SIZE = (76, 112)


def record(padding='legacy', num_regions=S):
    """A random network's routings, attention being far from even."""
    torch.manual_seed(0)
    model = BiFormer(ARCH, num_regions=num_regions, padding=padding)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith('qkv.weight'):
                weight *= 15
    return list(record_routing(model, torch.randn(1, 3, *IMAGE_SIZE)))


def red_picture():
    picture = np.zeros((*PICTURE_SIZE, 3), np.uint8)
    picture[..., 0] = 200
    return picture


both_paddings = pytest.mark.parametrize('padding', ['legacy', 'masked'], scope='module')


@pytest.fixture(scope='module')
def padding():
    return 'legacy'


@pytest.fixture(scope='module')
def routings(padding):
    return record(padding)


@pytest.fixture(scope='module')
def path(routings, tmp_path_factory):
    path = tmp_path_factory.mktemp('explorer') / 'explorer.html'
    write_explorer(path, red_picture(), iter(routings), title='A <b> & "c"')
    return path


@pytest.fixture(scope='module')
def browser():
    chromium = shutil.which('chromium')
    if chromium is None:
        pytest.skip('the explorer is tested in Chromium, and there is none: apt install chromium')
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens a page; fails if it complains or asks for anything."""
    contexts, complaints = [], []

    def open_page(path, **options):
        context = browser.new_context(**{'viewport': dict(width=1280, height=800), **options})
        contexts.append(context)
        page = context.new_page()
        page.on('console', lambda message: complaints.append(message.text))
        page.on('pageerror', lambda error: complaints.append(str(error)))
        page.on('requestfailed', lambda r: complaints.append(r.url[:99]))
        url = path.as_uri()
        page.on(
            'request',
            lambda r: (
                complaints.append(r.url[:99])
                if r.url != url and not r.url.startswith('data:')
                else None
            ),
        )
        page.goto(url)
        expect(page.locator('#caption')).not_to_be_empty()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def page(open_page, path):
    return open_page(path)


def on_screen(page, x, y):
    """Where a pixel of the network's input is in the window."""
    box = page.locator('#overlay').bounding_box()
    height, width = IMAGE_SIZE
    return (box['x'] + x / width * box['width'], box['y'] + y / height * box['height'])


def region_middle(routing, region):
    left, top, right, bottom = routing.region_box(region)
    return (left + right) / 2, (top + bottom) / 2


def token_middle(routing, row, col):
    height, width = IMAGE_SIZE  # which the last tokens may exceed
    return (
        min((col + 0.5) * routing.stride, width - 1),
        min((row + 0.5) * routing.stride, height - 1),
    )


def hover(page, x, y):
    page.mouse.move(*on_screen(page, x, y))


def go_to(page, routing):
    """Set the sliders to a block."""
    for name, number in ('stage', routing.stage), ('block', routing.block):
        slider = page.locator(f'#{name}')
        if slider.is_enabled():
            slider.fill(str(number - 1))
        expect(page.locator(f'#{name}-label')).to_have_text(re.compile(f'^{number} of '))
    expect(page.locator('#live')).to_have_text(
        re.compile(f'Stage {routing.stage}, block {routing.block}')
    )


def choose(page, name, value):
    page.locator(f'[name={name}][value="{value}"] + span').click()


def caption(page):
    return page.locator('#caption').inner_text()


def listed(page):
    """The list's rows: place, share."""
    rows = page.locator('#list li').all()
    return [
        (row.locator('.place').inner_text(), row.locator('.value').inner_text()) for row in rows
    ]


def name_of(routing, region):
    row, col = divmod(int(region), routing.num_regions)
    h, w = routing.region_size
    if row * h >= routing.map_size[0] or col * w >= routing.map_size[1]:
        return 'padding'
    return f'row {row + 1}, column {col + 1}'


def assert_share(text, share):
    if text == '< 0.1 %':
        assert share < 0.001
    else:
        number = float(re.fullmatch(r'(\d+\.\d) %', text).group(1))
        assert number == pytest.approx(100 * share, abs=0.0501)


def assert_about(text, share):
    """What is said of a rounded share is true."""
    percent = 100 * float(share)
    if text.startswith('≤'):
        assert percent <= float(text[1:-1])
    elif text.startswith('0 %'):
        assert percent == 0
    else:
        value, tolerance = map(float, text.rstrip(' %').split('±'))
        assert abs(percent - value) <= tolerance
        assert tolerance < 8  # it says something


def reading(page):
    return re.search(r'To row \d+, column \d+: (.*)\.$', caption(page))[1]


def routed_blocks(routings):
    return [r for r in routings if r.topk is not None]


def on_map(routing):
    return np.flatnonzero(routing.occupied_tokens())


@both_paddings
def test_hovering_lists_the_routed_regions_with_their_shares(page, routings):
    for routing in routed_blocks(routings):
        go_to(page, routing)
        for region in on_map(routing)[::3]:
            hover(page, *region_middle(routing, region))
            assert caption(page) == (
                f'Region at {name_of(routing, region)} routes to '
                f'{routing.topk} region{"s" * (routing.topk > 1)}.'
            )
            rows = listed(page)
            assert [place for place, _ in rows] == [
                name_of(routing, i) for i in routing.index[region]
            ]
            for (_, text), share in zip(rows, routing.strength[region]):
                assert_share(text, share)


@both_paddings
def test_toggle_lists_the_regions_that_route_to_it(page, routings):
    choose(page, 'direction', 'from')
    for routing in routed_blocks(routings):
        go_to(page, routing)
        for region in on_map(routing)[::3]:
            hover(page, *region_middle(routing, region))
            expected = {}
            for origin in on_map(routing):  # padding has no queries
                for j, target in enumerate(routing.index[origin]):
                    if target == region:
                        expected[name_of(routing, origin)] = routing.strength[origin, j]
            rows = listed(page)
            assert {place for place, _ in rows} == set(expected)
            number = len(expected) or 'no'
            assert f'is routed to by {number} region' in caption(page)
            for place, text in rows:
                assert_share(text, expected[place])
            shares = [expected[place] for place, _ in rows]
            assert all(a >= b - 0.001 for a, b in zip(shares, shares[1:]))
    choose(page, 'direction', 'to')
    assert 'routes to' in caption(page)


@both_paddings
def test_share_of_the_padding_is_told(page, routings):
    told = set()
    for routing in routed_blocks(routings):
        go_to(page, routing)
        for region in on_map(routing)[::3]:
            hover(page, *region_middle(routing, region))
            h, w = routing.region_size
            on_the_map = [
                routing.heat_map(row, col).sum() / routing.num_heads
                for row in range(routing.map_size[0])
                for col in range(routing.map_size[1])
                if routing.region_of(row, col) == region
            ]
            padding = 1 - np.mean(on_the_map)
            note = page.locator('#note').inner_text()
            told.add(bool(note))
            if note:
                assert_share(note.split(' of it ')[0], padding)
            else:
                assert padding < 0.00051
    assert len(told) == 1 + any(
        r.topk and r.heat_map(0, 0).sum() < 0.9 * r.num_heads for r in routings
    )


@both_paddings
def test_only_routed_regions_keep_their_colour(page, routings):
    routing = next(r for r in routings if r.stage == 2)
    go_to(page, routing)
    region = on_map(routing)[0]
    hover(page, *region_middle(routing, region))
    pixels = screenshot(page)
    for other in on_map(routing):
        left, top, right, bottom = routing.region_box(other)
        # A quarter into it: away from outlines and numbers.
        x, y = on_screen(
            page, left + (right - left) / 5, top + (min(bottom, PICTURE_SIZE[0]) - top) / 5
        )
        red, green, blue = pixels[int(y), int(x)].astype(int)
        assert (red - green > 100) == (other in routing.index[region])


def screenshot(page):
    import cv2

    image = np.frombuffer(page.screenshot(), np.uint8)
    return cv2.imdecode(image, cv2.IMREAD_COLOR)[..., ::-1]


@both_paddings
def test_clicked_token_shows_its_attention_per_head(page, routings):
    for routing in routings[1::2]:  # of stages 2, 3 and 4
        go_to(page, routing)
        if routing.topk:
            choose(page, 'mode', 'attention')
        height, width = routing.map_size
        row, col = height // 2, width // 3
        page.mouse.click(*on_screen(page, *token_middle(routing, row, col)))
        heat = routing.heat_map(row, col)
        maps = [('-1', heat.mean(axis=0)), ('0', heat[0]), (str(len(heat) - 1), heat[-1])]
        for head, values in maps:
            choose(page, 'head', head)
            assert f'Token at row {row + 1}, column {col + 1}' in caption(page)
            most = np.unravel_index(values.argmax(), values.shape)
            for place in [(0, 0), (row, col), (height - 1, width - 1), most]:
                hover(page, *token_middle(routing, *place))
                assert_about(reading(page), values[place])
            for place, text in listed(page):
                r, c = map(int, re.findall(r'\d+', place))
                assert_about(text, values[r - 1, c - 1])
            legend = page.locator('#legend-high').inner_text()
            if head == '-1':
                assert_about(legend, values.max())
            else:  # of a head the maximum is known exactly
                assert float(legend[:-1]) == pytest.approx(100 * values.max(), rel=0.006)


@both_paddings
def test_unrouted_tokens_read_zero(page, routings):
    routing = next(r for r in routings if r.stage == 1)
    go_to(page, routing)
    hover(page, *region_middle(routing, 5))
    page.mouse.click(*on_screen(page, *region_middle(routing, 5)))
    for region in range(S * S):
        hover(page, *region_middle(routing, region))
        zero = reading(page) == '0 %, not routed to'
        assert zero == (region not in routing.index[5])


def test_click_takes_the_region_under_the_mouse_to_its_token(page, routings):
    routing = routings[0]
    go_to(page, routing)
    x, y = token_middle(routing, 7, 9)
    page.mouse.click(*on_screen(page, x, y))
    assert 'Token at row 8, column 10' in caption(page)
    choose(page, 'mode', 'regions')
    assert name_of(routing, routing.region_of(7, 9)) in caption(page)


def test_full_attention_has_heat_maps_alone(page, routings):
    go_to(page, routings[-1])
    assert 'no routing' in page.locator('#facts').inner_text()
    assert page.locator('[name=mode][value=regions]').is_disabled()
    assert caption(page).startswith('Token')
    go_to(page, routings[0])  # and then regions again
    assert caption(page).startswith('Region')


@pytest.mark.parametrize('routed', [False, True])
def test_other_attentions_have_heat_maps_alone(routed, open_page, tmp_path):
    torch.manual_seed(0)
    kinds = ['shifted_window', 'full', 'criss_cross', 'bi_level_routing' if routed else 'quadtree']
    model = BiFormer(dict(ARCH, topks=(4,) * 4, attention=kinds), num_regions=S if routed else None)
    routings = list(record_routing(model, torch.randn(1, 3, *IMAGE_SIZE)))
    path = tmp_path / 'explorer.html'
    write_explorer(path, red_picture(), routings)
    page = open_page(path)
    for kind, routing in zip(('Shifted window', 'Full', 'Full', 'Criss cross'), routings):
        go_to(page, routing)
        facts = page.locator('#facts').inner_text()
        assert facts.startswith(f'{kind} attention, ') and 'no routing' in facts
        assert page.locator('[name=mode][value=regions]').is_disabled()
        assert caption(page).startswith('Token')
    go_to(page, routings[-1])
    assert caption(page).startswith('Region' if routed else 'Token')


def test_facts_of_each_stage(page, routings):
    for routing in routings:
        go_to(page, routing)
        h, w = routing.region_size
        facts = page.locator('#facts').inner_text()
        assert f'{h} × {w} tokens' in facts
        if routing.topk:
            assert f'S = {S}, k = {routing.topk},' in facts
        assert page.locator('#block-label').inner_text() == (
            f'{routing.block} of {routing.num_blocks}'
        )
        assert page.locator('#stage-label').inner_text() == (f'{routing.stage} of 4')


def test_everything_by_keyboard(page, routings):
    live = page.locator('#live')
    press = page.keyboard.press
    press('Tab')
    assert page.evaluate('() => document.activeElement.id') == 'theme'
    press('Tab')
    view = page.locator('#view')
    expect(view).to_be_focused()
    ring = view.evaluate('e => getComputedStyle(e).outline')
    assert 'solid' in ring and '3px' in ring

    # The last routed block comes first, at the picture's middle.
    expect(live).to_have_text('Stage 3, block 2. Region at row 2, column 2 routes to 8 regions.')
    press('ArrowRight')
    press('ArrowDown')
    expect(live).to_contain_text('row 3, column 3 routes')
    for _ in range(3):  # beyond lies padding
        press('ArrowDown')
    expect(live).to_contain_text('row 3, column 3 routes')
    press('ArrowUp')
    press('r')
    expect(live).to_contain_text('row 2, column 3 is routed to by')
    press('b')
    press('Shift+B')
    expect(live).to_contain_text('Stage 3, block 1.')
    press('Shift+S')
    expect(live).to_contain_text('Stage 2, block 1.')
    press('s')
    press('b')
    expect(live).to_contain_text('Stage 3, block 2.')

    press('Enter')
    routing = next(r for r in routings if (r.stage, r.block) == (3, 2))
    expect(live).to_contain_text('mean of 4 heads')
    row, col = map(int, re.findall(r'Token at row (\d+), column (\d+)', caption(page))[0])
    heat = routing.heat_map(row - 1, col - 1)
    assert name_of(routing, routing.region_of(row - 1, col - 1)) == 'row 2, column 3'
    press('h')
    expect(live).to_contain_text('head 1 of 4')
    press('Shift+ArrowLeft')
    assert_about(reading(page), heat[0, row - 1, col - 2])
    press('Shift+H')
    press('Shift+H')
    expect(live).to_contain_text('head 4 of 4')
    press('ArrowLeft')
    expect(live).to_contain_text(f'Token at row {row}, column {col - 1}')
    press('s')
    expect(live).to_contain_text('Stage 4, block 1. Token')
    press('Shift+S')
    press('Escape')
    expect(live).to_contain_text('Region at')

    press('Tab')  # the sliders
    expect(page.locator('#stage')).to_be_focused()
    press('ArrowLeft')
    expect(live).to_contain_text('Stage 2')
    press('Tab')
    press('Home')
    expect(live).to_contain_text('Stage 2, block 1')


def test_tap_shows_a_region_and_the_next_one_its_token(open_page, path, routings):
    page = open_page(path, viewport=dict(width=375, height=812), has_touch=True, is_mobile=True)
    routing = routed_blocks(routings)[-1]
    for region in (0, 5):
        place = on_screen(page, *region_middle(routing, region))
        page.touchscreen.tap(*place)
        expect(page.locator('#caption')).to_contain_text(f'Region at {name_of(routing, region)}')
        assert [name for name, _ in listed(page)] == [
            name_of(routing, i) for i in routing.index[region]
        ]
    page.touchscreen.tap(*place)
    expect(page.locator('#caption')).to_contain_text('Token at')
    assert page.locator('.touch').is_visible()


def test_phone_needs_no_sideways_scrolling(open_page, path, routings):
    page = open_page(path, viewport=dict(width=375, height=812), has_touch=True, is_mobile=True)
    widest = '() => document.documentElement.scrollWidth'
    for routing in routings:
        go_to(page, routing)
        for mode in ('regions', 'attention') if routing.topk else ():
            choose(page, 'mode', mode)
            assert page.evaluate(widest) == 375
    assert page.evaluate(widest) == 375


def test_focus_is_never_under_the_picture(open_page, path):
    """Which stays at the top of narrow windows."""
    page = open_page(path, viewport=dict(width=390, height=500))
    edges = """() => {
        const box = (e) => e.getBoundingClientRect();
        const focused = document.activeElement;
        return [box(focused.closest('label') ?? focused).top,
                box(document.querySelector('.picture')).bottom];
    }"""
    page.locator('#list').focus()
    page.evaluate('() => window.scrollTo(0, 1e6)')
    for name in 'direction', 'mode', 'block', 'stage':
        page.keyboard.press('Shift+Tab')
        focused = page.locator(':focus')
        assert name in (focused.get_attribute('name'), focused.get_attribute('id'))
        ring = 5  # pixels
        top, bottom = page.evaluate(edges)
        assert top - ring >= bottom, name


def test_upright_tablet_has_one_column(open_page, path):
    page = open_page(path, viewport=dict(width=820, height=1180))
    picture = page.locator('#view').bounding_box()
    panel = page.locator('.panel').bounding_box()
    assert panel['y'] >= picture['y'] + picture['height']
    assert picture['width'] > 0.8 * 820


def test_choice_is_seen_in_forced_colors(open_page, path):
    page = open_page(path, forced_colors='active')
    chosen, other = (
        page.locator(f'[name=mode][value={mode}] + span').evaluate(
            'e => getComputedStyle(e).backgroundColor'
        )
        for mode in ('regions', 'attention')
    )
    assert chosen != other


def test_list_without_rows_is_no_stop_of_the_focus(page, routings):
    choose(page, 'direction', 'from')
    routing, region = next(
        (r, i) for r in routed_blocks(routings) for i in on_map(r) if not len(r.incoming(i))
    )
    go_to(page, routing)
    hover(page, *region_middle(routing, region))
    assert 'is routed to by no regions' in caption(page)
    assert not page.locator('#list').is_visible()
    assert not page.locator('#list-title').is_visible()


def test_old_browser_is_told(path, browser):
    page = browser.new_page()
    page.add_init_script('delete globalThis.DecompressionStream')
    page.goto(path.as_uri())
    expect(page.locator('#caption')).to_contain_text(
        'needs a browser of 2024 or later (ReferenceError: Decompression'
    )
    page.close()


@pytest.mark.parametrize('system', ['light', 'dark'])
def test_theme_follows_the_system_until_toggled(open_page, path, system):
    page = open_page(path, color_scheme=system)

    def brightness():
        color = page.locator('body').evaluate('e => getComputedStyle(e).backgroundColor')
        return sum(map(int, re.findall(r'\d+', color)[:3])) / 3

    dark = system == 'dark'
    assert (brightness() < 128) == dark
    page.locator('#theme').click()
    assert (brightness() < 128) != dark
    page.locator('#view').press('t')
    assert (brightness() < 128) == dark


def test_reduced_motion(open_page, path):
    duration = 'e => getComputedStyle(e).transitionDuration'
    for motion, moves in ('no-preference', True), ('reduce', False):
        page = open_page(path, reduced_motion=motion)
        seconds = page.locator('#theme').evaluate(duration)
        assert (seconds.split(',')[0] != '0s') == moves


def test_title_is_text(page):
    assert page.locator('h1').inner_text() == 'A <b> & "c"'


def test_policy_forbids_foreign_scripts(path, browser):
    page = browser.new_page()
    page.goto(path.as_uri())
    expect(page.locator('#caption')).not_to_be_empty()
    page.evaluate("""() => {
        const script = document.createElement('script');
        script.textContent = 'document.title = "foreign"';
        document.body.append(script);
    }""")
    assert page.title() == 'A <b> & "c" – routing explorer'
    page.close()


def recorded_tokens(page, routing):
    """How many tokens of a stage the page has heat maps of."""
    go_to(page, routing)
    if routing.topk:
        choose(page, 'mode', 'attention')
    found = re.search(r'(\d+) of \d+ tokens', page.locator('#note').inner_text())
    return int(found[1]) if found else np.prod(routing.map_size)


def test_limit_coarsens_the_heat_maps_alone(open_page, tmp_path):
    routings = record()
    counts = []
    for megabytes in (6, 0.08, 0.05):
        path = tmp_path / f'{megabytes}.html'
        write_explorer(path, red_picture(), routings, max_megabytes=megabytes)
        assert path.stat().st_size <= megabytes * 1e6
        page = open_page(path)
        counts.append([recorded_tokens(page, r) for r in routings])
        # A click takes the nearest recorded token, which is then marked.
        routing = routings[0]
        go_to(page, routing)
        page.mouse.click(*on_screen(page, 1, 1))
        row, col = map(int, re.findall(r'\d+', caption(page))[:2])
        assert routing.region_of(row - 1, col - 1) == 0
        values = routing.heat_map(row - 1, col - 1).mean(axis=0)
        for place, text in listed(page):
            r, c = map(int, re.findall(r'\d+', place))
            assert_about(text, values[r - 1, c - 1])
    everything, some, few = counts
    assert everything == [np.prod(r.map_size) for r in routings]
    assert all(a >= b >= c for a, b, c in zip(*counts))
    assert sum(everything) > 1.5 * sum(some) > 2.25 * sum(few)
    with pytest.raises(UsageError, match='raise the limit'):
        write_explorer(path, red_picture(), routings, max_megabytes=0.02)


def test_rounds_double_the_tokens_and_leave_none_out():
    map_size, region_size = (25, 38), (4, 5)
    seen = set()
    counts = []
    for tokens in token_rounds(map_size, region_size):
        tokens = set(map(tuple, tokens.tolist()))
        assert tokens and not tokens & seen
        seen |= tokens
        counts.append(len(seen))
        rows, cols = (sorted(set(line)) for line in zip(*seen))
        assert len(seen) == len(rows) * len(cols)  # a grid
        if len(rows) == 7 and len(cols) == 8:  # one for each region
            assert [row // 4 for row in rows] == list(range(7))
            assert [col // 5 for col in cols] == list(range(8))
    assert len(seen) == 25 * 38
    assert counts[0] == 1 and 7 * 8 in counts
    assert all(b <= 3 * a for a, b in zip(counts, counts[1:]))


def test_refused_write_leaves_no_file(tmp_path):
    routings = record()
    with pytest.raises(UsageError):
        write_explorer(tmp_path / 'new' / 'a.html', red_picture(), routings, max_megabytes=0.02)
    assert list(tmp_path.rglob('*.html')) == []
