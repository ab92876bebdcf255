/* bulk: one large body over TLS, down or up, for measuring a server on the same machine.
 *
 * usage: bulk get PORT TIMES < REQUEST
 *        bulk put PORT FILE COUNT TAIL < HEAD
 *
 * get sends the request TIMES times on one connection and throws the answers away, each a 200 with a Content-Length. put sends the head,
 * then the first COUNT bytes of a file, which should be in memory, and TAIL, given in hexadecimal, and wants a 201. One line of JSON goes
 * to standard output: the seconds from the first byte of the request to the last of the answer, without the handshake. The exit status is
 * 1 when an answer was wrong.
 *
 * Reads take what the socket has, up to 256 KiB at once, instead of one record's header and then its body. That is all the thrift there is:
 * one thread, OpenSSL, a record of 16 KiB at a time.
 */
#define _GNU_SOURCE
#include "dial.h"
#include <sys/mman.h>

enum { READ_AHEAD = 256 << 10, STEP = 1 << 20, HEAD_MAX = 65536, TAIL_MAX = 256 };

static char step[STEP + 1];

static SSL *shake(SSL_CTX *context, int port) {
    SSL *tls = SSL_new(context);
    if (!tls || !SSL_set_fd(tls, dial(port, 0)) || SSL_connect(tls) != 1)
        fail_tls("the handshake failed");
    return tls;
}

static void send_all(SSL *tls, const char *data, size_t size) {
    while (size > 0) {
        int sent = SSL_write(tls, data, size < STEP ? size : STEP);
        if (sent <= 0)
            return; /* the answer, which may have come early, says why */
        data += sent;
        size -= sent;
    }
}

/* Read an answer's head, check its status and throw its body away; the size of that. */
static size_t receive(SSL *tls, const char *status) {
    size_t have = 0;
    char *blank = NULL;
    while (!blank) {
        int got = have < HEAD_MAX ? SSL_read(tls, step + have, HEAD_MAX - have) : 0;
        if (got <= 0)
            fail_tls("no answer");
        have += got;
        step[have] = 0;
        blank = strstr(step, "\r\n\r\n");
    }
    if (strncmp(step, "HTTP/1.1 ", 9) != 0 || strncmp(step + 9, status, 3) != 0)
        fail("the answer is not the one expected", step);
    char *length = strcasestr(step, "\r\ncontent-length:");
    size_t size = length && length < blank ? strtoul(length + 17, NULL, 10) : 0;
    size_t left = size, early = step + have - (blank + 4);
    while (left > early) {
        int got = SSL_read(tls, step, STEP);
        if (got <= 0)
            fail_tls("the answer ended early");
        left -= got;
    }
    return size;
}

static size_t from_hex(const char *text, char *bytes) {
    size_t size = 0;
    for (unsigned byte; size < TAIL_MAX && sscanf(text + 2 * size, "%2x", &byte) == 1; size++)
        bytes[size] = byte;
    return size;
}

int main(int argc, char **argv) {
    int is_get = argc == 4 && strcmp(argv[1], "get") == 0, is_put = argc == 6 && strcmp(argv[1], "put") == 0;
    if (!is_get && !is_put) {
        fprintf(stderr, "usage: bulk get PORT TIMES < REQUEST\n       bulk put PORT FILE COUNT TAIL < HEAD\n");
        return 2;
    }
    static char head[HEAD_MAX], tail[TAIL_MAX];
    size_t head_size = fread(head, 1, sizeof head, stdin), moved = 0, count = 0, tail_size = 0;
    char *body = NULL;
    if (is_put) {
        int file = open(argv[3], O_RDONLY);
        count = strtoul(argv[4], NULL, 10);
        tail_size = from_hex(argv[5], tail);
        body = mmap(NULL, count, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
        if (file < 0 || body == MAP_FAILED)
            fail("cannot read", argv[3]);
    }
    signal(SIGPIPE, SIG_IGN);
    SSL_CTX *context = tls_client();
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, READ_AHEAD);
    SSL *tls = shake(context, atoi(argv[2]));
    int64_t start = now();
    if (is_get) {
        for (int left = atoi(argv[3]); left > 0; left--) {
            send_all(tls, head, head_size);
            moved += receive(tls, "200");
        }
    } else {
        send_all(tls, head, head_size);
        send_all(tls, body, count);
        send_all(tls, tail, tail_size);
        receive(tls, "201");
        moved = count + tail_size;
    }
    printf("{\"bytes\": %zu, \"seconds\": %.6f, \"client_cpu\": %.4f, \"tls\": \"%s %s\"}\n", moved, (now() - start) / 1e9, cpu_seconds(),
           SSL_get_version(tls), SSL_get_cipher(tls));
    return 0;
}
