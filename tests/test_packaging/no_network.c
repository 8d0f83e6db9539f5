/* Preloaded, refuses and notes whatever leaves the machine, also from C++. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void note(const char *what, const char *host) {
    FILE *file = fopen(getenv("CONNECTIONS"), "a");
    fprintf(file, "%s %s\n", what, host);
    fclose(file);
}

static int is_local_name(const char *host) {
    char own[256] = "";
    gethostname(own, sizeof own - 1);
    return !host || !*host || !strcmp(host, "localhost") ||
           !strcmp(host, "::") || !strcmp(host, "::1") ||
           !strcmp(host, "0.0.0.0") || !strncmp(host, "127.", 4) ||
           !strcmp(host, own);
}

static int leaves(const char *what, const struct sockaddr *address) {
    char host[INET6_ADDRSTRLEN] = "";
    if (!address)
        return 0;
    if (address->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)address)->sin_addr,
                  host, sizeof host);
    else if (address->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)address)->sin6_addr,
                  host, sizeof host);
    else
        return 0;
    if (is_local_name(!strncmp(host, "::ffff:", 7) ? host + 7 : host))
        return 0;
    note(what, host);
    errno = EACCES;
    return 1;
}

int getaddrinfo(const char *host, const char *service,
                const struct addrinfo *hints, struct addrinfo **found) {
    int (*real)() = dlsym(RTLD_NEXT, "getaddrinfo");
    if (is_local_name(host))
        return real(host, service, hints, found);
    note("getaddrinfo", host);
    return EAI_FAIL;
}

int connect(int fd, const struct sockaddr *address, socklen_t size) {
    int (*real)() = dlsym(RTLD_NEXT, "connect");
    return leaves("connect", address) ? -1 : real(fd, address, size);
}

ssize_t sendto(int fd, const void *data, size_t length, int flags,
               const struct sockaddr *address, socklen_t size) {
    ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *,
                    socklen_t) = dlsym(RTLD_NEXT, "sendto");
    return leaves("sendto", address)
               ? -1
               : real(fd, data, length, flags, address, size);
}
