/* load: many small requests to a server on the same machine, for measuring it.
 *
 * usage: load [-tchsae] PORT CONNECTIONS SECONDS RATE < REQUESTS
 *
 * REQUESTS are whole HTTP/1.1 requests, heads and bodies, a NUL after each; they are sent in turn. RATE 0 is a closed loop: each
 * connection sends its next request when the answer to the last one is whole. A RATE above 0 sends that many requests a second in all,
 * at fixed points in time spread over the connections (with -c: by whichever is idle), and counts a latency from the point at which the
 * request was DUE, so that a stall of the server is charged to every request that it held up, not to one.
 *
 *   -t  over TLS, whatever the certificate
 *   -c  each request on a connection of its own
 *   -h  nothing is asked: each connection is a full TLS handshake, over when the server has closed it after our close_notify
 *   -s  each connection from another address of 127.0.0.0/8
 *   -a  any status is an answer; otherwise each must be a 200
 *   -e  end after SECONDS, whatever is still unanswered
 *
 * An answer has a Content-Length or is chunked; it is read whole. One line of JSON goes to standard output; the exit status is 1 when an
 * answer was wrong or a connection broke. One thread and epoll: a client should cost far less than the server.
 */
#define _GNU_SOURCE
#include "dial.h"
#include <sys/epoll.h>
#include <sys/timerfd.h>

enum { BUFFER = 1 << 20, MAX_CONNECTIONS = 256, MAX_REQUESTS = 65536, MAX_STATUS = 600 };
enum state { IDLE, SHAKING, ASKED, CLOSING };

struct connection {
    int fd;
    SSL *tls;
    enum state state;   /* IDLE: nothing is out, and where each request has a connection of its own there is none */
    int64_t since;      /* when the request was sent, or was due; ns */
    int64_t due;        /* when the next one is due, with a RATE and without -c; ns */
    size_t have;
    char *buffer;       /* BUFFER + 1 bytes */
};

static struct { char *text; size_t size; } requests[MAX_REQUESTS];
static size_t request_count, next_request;
static struct connection connections[MAX_CONNECTIONS];
static uint32_t *latencies; /* microseconds */
static size_t answered, capacity, statuses[MAX_STATUS];
static uint64_t bytes;
static int use_tls, each_its_own, only_handshakes, many_sources, any_status, ends_there, port, poll_fd;
static int busy; /* connections that are not IDLE */
static SSL_CTX *context;
static char spoken[64] = "none"; /* protocol and cipher of the last handshake */

/* The length of a chunked body that starts at p, framing included; 0 while it is not whole. */
static size_t chunked_length(const char *p, const char *end) {
    const char *start = p;
    for (;;) {
        const char *line = memmem(p, end - p, "\r\n", 2);
        if (!line)
            return 0;
        char *stop;
        unsigned long size = strtoul(p, &stop, 16);
        if (stop == p || size > BUFFER)
            fail("a bad chunk", p);
        p = line + 2;
        if ((size_t)(end - p) < size + 2)
            return 0;
        p += size + 2;
        if (size == 0)
            return p - start;
    }
}

/* Whether the buffer holds one whole answer; anything that is not the expected answer ends the program. */
static int is_whole(struct connection *c) {
    c->buffer[c->have] = 0;
    char *blank = memmem(c->buffer, c->have, "\r\n\r\n", 4);
    if (!blank)
        return 0;
    int status = strncmp(c->buffer, "HTTP/1.1 ", 9) == 0 ? atoi(c->buffer + 9) : 0;
    if (any_status ? status < 200 || status >= MAX_STATUS : status != 200)
        fail(any_status ? "this is no answer" : "the answer is not a 200", c->buffer);
    char *body = blank + 4;
    *blank = 0;
    char *length = strcasestr(c->buffer, "\r\ncontent-length:");
    int chunked = strcasestr(c->buffer, "\r\ntransfer-encoding: chunked") != NULL;
    if (!length && !chunked)
        fail("the answer has no length", c->buffer);
    size_t size = length ? strtoul(length + 17, NULL, 10) : chunked_length(body, c->buffer + c->have);
    *blank = '\r';
    if (chunked && size == 0)
        return 0;
    size_t end = (body - c->buffer) + size;
    if (end > BUFFER)
        fail("the answer is larger than the buffer", c->buffer);
    if (c->have < end)
        return 0;
    if (c->have > end)
        fail("bytes after the answer", c->buffer + end);
    statuses[status]++;
    return 1;
}

static void record(struct connection *c, int64_t at) {
    if (answered == capacity) {
        capacity = capacity ? capacity * 2 : 1 << 16;
        latencies = realloc(latencies, capacity * sizeof *latencies);
        if (!latencies)
            fail("memory", strerror(errno));
    }
    latencies[answered++] = (uint32_t)((at - c->since) / 1000);
    bytes += c->have;
    c->have = 0;
    c->state = IDLE;
    busy--;
}

static void send_request(struct connection *c) {
    const char *text = requests[next_request].text;
    size_t size = requests[next_request].size;
    next_request = (next_request + 1) % request_count;
    c->have = 0;
    c->state = ASKED;
    ssize_t sent = c->tls ? SSL_write(c->tls, text, size) : send(c->fd, text, size, MSG_NOSIGNAL);
    if (sent < 0 || (size_t)sent != size)
        fail("cannot send", c->tls ? "TLS" : strerror(errno));
}

static void open_connection(struct connection *c) {
    static uint32_t source;
    c->fd = dial(port, many_sources ? INADDR_LOOPBACK + 1 + source++ % 0xfffff0 : 0);
    if (each_its_own)
        fcntl(c->fd, F_SETFL, O_NONBLOCK); /* after the connect, which the loopback answers at once */
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &event);
    if (!use_tls)
        return;
    c->tls = SSL_new(context);
    if (!c->tls || !SSL_set_fd(c->tls, c->fd))
        fail("cannot begin TLS", "OpenSSL");
    SSL_set_connect_state(c->tls);
}

static void close_connection(struct connection *c) {
    SSL_free(c->tls);
    c->tls = NULL;
    close(c->fd);
}

/* One step of a handshake that waits for the server; goes on with the request when it is done. */
static void shake(struct connection *c) {
    int result = SSL_do_handshake(c->tls);
    if (result != 1) {
        if (SSL_get_error(c->tls, result) != SSL_ERROR_WANT_READ)
            fail_tls("the handshake failed");
        return;
    }
    snprintf(spoken, sizeof spoken, "%s %s", SSL_get_version(c->tls), SSL_get_cipher(c->tls));
    if (!only_handshakes) {
        send_request(c);
        return;
    }
    c->state = CLOSING;
    SSL_shutdown(c->tls);
    ERR_clear_error(); /* what it may say is not to be taken for the next connection's */
}

/* Begin the next request of a connection, or the next connection. */
static void begin(struct connection *c, int64_t since) {
    c->since = since;
    busy++;
    if (!each_its_own) {
        send_request(c);
        return;
    }
    open_connection(c);
    if (!use_tls) {
        send_request(c);
        return;
    }
    c->state = SHAKING;
    c->have = 0;
    shake(c);
}

/* Read what has come; whether the answer is whole, or the connection over that was to be closed. Where nothing was asked, TLS may still
 * have tickets to read. */
static int receive(struct connection *c) {
    for (;;) {
        size_t room = BUFFER - c->have;
        ssize_t got = c->tls && c->state != CLOSING ? SSL_read(c->tls, c->buffer + c->have, room)
                                                    : recv(c->fd, c->buffer + c->have, room, MSG_DONTWAIT);
        if (c->state == CLOSING) {
            if (got > 0)
                continue; /* session tickets and the server's close_notify */
            return got == 0 || errno == ECONNRESET;
        }
        if (got <= 0) {
            if (c->tls ? SSL_get_error(c->tls, got) == SSL_ERROR_WANT_READ : got < 0 && errno == EAGAIN)
                return 0;
            fail("the server closed the connection", got < 0 && !c->tls ? strerror(errno) : "in the middle of the measurement");
        }
        if (c->state == IDLE)
            fail("bytes that were not asked for", c->buffer);
        c->have += got;
        if (is_whole(c))
            return 1;
    }
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void read_requests(void) {
    char *text = NULL;
    size_t room = 0;
    ssize_t size;
    while ((size = getdelim(&text, &room, 0, stdin)) > 1) {
        if (request_count == MAX_REQUESTS)
            fail("too many requests", text);
        requests[request_count].text = text;
        requests[request_count++].size = size - 1;
        text = NULL;
        room = 0;
    }
    if (request_count == 0)
        fail("no request", "standard input is empty");
}

static void report(double seconds, int count) {
    if (answered == 0)
        fail("no answer", "the server was silent for the whole measurement");
    qsort(latencies, answered, sizeof *latencies, ascending);
    printf("{\"requests\": %zu, \"seconds\": %.6f, \"bytes\": %llu, \"connections\": %d, \"p50_us\": %u, \"p99_us\": %u, \"max_us\": %u, "
           "\"client_cpu\": %.4f, \"tls\": \"%s\", \"unanswered\": %d, \"statuses\": {",
           answered, seconds, (unsigned long long)bytes, count, latencies[answered / 2], latencies[(size_t)(answered * 0.99)],
           latencies[answered - 1], cpu_seconds(), spoken, busy);
    const char *comma = "";
    for (int status = 0; status < MAX_STATUS; status++)
        if (statuses[status]) {
            printf("%s\"%d\": %zu", comma, status, statuses[status]);
            comma = ", ";
        }
    printf("}}\n");
}

/* Send what is due and arm the timer for what is due next, or for `end`; when the next one is due, `end` or later for never. */
static int64_t send_due(int timer, int count, int64_t interval, int64_t start, int64_t end) {
    static int64_t shared; /* of the requests that any connection may send, how many were sent */
    int64_t at = now(), next = INT64_MAX;
    for (int i = 0; i < count; i++) {
        struct connection *c = &connections[i];
        if (each_its_own)
            c->due = start + shared * interval / count;
        if (c->state == IDLE && c->due <= at && c->due < end) {
            begin(c, c->due);
            if (each_its_own)
                shared++;
            else
                c->due += interval;
        }
        if (c->state == IDLE && c->due < next)
            next = c->due;
    }
    int64_t wake = next < end ? next : end;
    if (wake > at) {
        struct itimerspec when = {.it_value = {.tv_sec = wake / 1000000000, .tv_nsec = wake % 1000000000}};
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
    }
    return next;
}

static void prepare(struct connection *c) {
    c->buffer = malloc(BUFFER + 1);
    if (!c->buffer)
        fail("memory", strerror(errno));
    if (each_its_own)
        return;
    open_connection(c);
    if (c->tls && SSL_connect(c->tls) != 1)
        fail_tls("the handshake failed");
    if (c->tls) {
        snprintf(spoken, sizeof spoken, "%s %s", SSL_get_version(c->tls), SSL_get_cipher(c->tls));
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
    }
}

static int usage(void) {
    fprintf(stderr, "usage: load [-tchsae] PORT CONNECTIONS SECONDS RATE < REQUESTS\n");
    return 2;
}

int main(int argc, char **argv) {
    int option;
    while ((option = getopt(argc, argv, "tchsae")) != -1) {
        if (option == '?')
            return usage();
        use_tls |= option == 't' || option == 'h';
        each_its_own |= option == 'c' || option == 'h';
        only_handshakes |= option == 'h';
        many_sources |= option == 's';
        any_status |= option == 'a';
        ends_there |= option == 'e';
    }
    argv += optind;
    if (argc - optind != 4)
        return usage();
    port = atoi(argv[0]);
    int count = atoi(argv[1]);
    double seconds = atof(argv[2]), rate = atof(argv[3]);
    if (count < 1 || count > MAX_CONNECTIONS)
        fail("CONNECTIONS must be 1 to 256", argv[1]);
    if (rate > 0 && rate * seconds < count)
        fail("RATE leaves a connection without a request", argv[3]);
    if (!only_handshakes)
        read_requests();
    if (use_tls)
        context = tls_client();
    signal(SIGPIPE, SIG_IGN);
    poll_fd = epoll_create1(0);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    for (int i = 0; i < count; i++)
        prepare(&connections[i]);
    struct epoll_event tick = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer, &tick);
    int64_t start = now(), end = start + (int64_t)(seconds * 1e9), last = start;
    int64_t interval = rate > 0 ? (int64_t)(count * 1e9 / rate) : 0;
    for (int i = 0; i < count; i++) {
        if (rate > 0)
            connections[i].due = start + interval * i / count;
        else
            begin(&connections[i], now());
    }
    for (;;) {
        int64_t next = rate > 0 ? send_due(timer, count, interval, start, end) : INT64_MAX;
        if ((busy == 0 && next >= end) || (ends_there && now() >= end))
            break;
        struct epoll_event events[64];
        int n = epoll_wait(poll_fd, events, 64, 30000);
        if (n == 0)
            fail("no answer", "the server was silent for 30 seconds");
        for (int k = 0; k < n; k++) {
            struct connection *c = events[k].data.ptr;
            if (!c) {
                uint64_t ticks;
                if (read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN)
                    fail("timer", strerror(errno));
                continue;
            }
            if (c->state == SHAKING) {
                shake(c);
                continue;
            }
            if (!receive(c))
                continue;
            last = now();
            record(c, last);
            if (each_its_own)
                close_connection(c);
            if (rate == 0 && last < end)
                begin(c, last);
        }
    }
    report((last - start) / 1e9, count);
    return 0;
}
