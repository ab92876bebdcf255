/* What the clients in C share: a clock, an end, a connection to the loopback, and TLS. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void fail(const char *what, const char *detail) {
    fprintf(stderr, "%s: %s: %.300s\n", program_invocation_short_name, what, detail);
    exit(1);
}

static void fail_tls(const char *what) {
    const char *reason = ERR_reason_error_string(ERR_peek_error());
    fail(what, reason ? reason : strerror(errno));
}

/* A connection to a port of 127.0.0.1, from the address `source`, or from any for 0. */
static int dial(int port, uint32_t source) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("cannot connect", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if ((source && bind(fd, (struct sockaddr *)&own, sizeof own) < 0) || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("cannot connect", strerror(errno));
    return fd;
}

/* TLS as a registry's clients speak it: most are written in Go, which offers AES-128-GCM first. No resumption, and nothing is verified. */
static SSL_CTX *tls_client(void) {
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (!context || !SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"))
        fail_tls("cannot begin TLS");
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    return context;
}
