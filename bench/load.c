/* load: many small GETs over keep-alive connections, for measuring a server on the same machine.
 *
 * usage: load PORT CONNECTIONS SECONDS RATE [HEADER...] < PATHS
 *
 * PATHS are request targets, one a line, taken in turn. RATE 0 is a closed loop: each connection sends its next request when the
 * answer to the last one is whole. A RATE above 0 sends that many requests a second in all, at fixed points in time spread over the
 * connections, and counts a latency from the point at which the request was DUE, so that a stall of the server is charged to every
 * request that it held up, not to one.
 *
 * Each answer must be a 200 with a Content-Length or chunked; it is read whole. One line of JSON goes to standard output; the exit
 * status is 1 when an answer was wrong or a connection broke. One thread and epoll: a client should cost far less than the server.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 1 << 20, MAX_CONNECTIONS = 256, MAX_PATHS = 65536 };

struct connection {
    int fd;
    int busy;           /* a request is out and its answer is not whole */
    int64_t since;      /* when that request was sent, or was due; ns */
    int64_t due;        /* when the next one is due, with a RATE; ns */
    size_t have;
    char *buffer;       /* BUFFER + 1 bytes */
};

static char *paths[MAX_PATHS];
static size_t path_count, next_path;
static char headers[8192];
static struct connection connections[MAX_CONNECTIONS];
static uint32_t *latencies; /* microseconds */
static size_t answered, capacity;
static uint64_t bytes;

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void fail(const char *what, const char *detail) {
    fprintf(stderr, "load: %s: %.300s\n", what, detail);
    exit(1);
}

static void open_connection(struct connection *c, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("cannot connect", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->buffer = malloc(BUFFER + 1);
    if (!c->buffer)
        fail("memory", strerror(errno));
}

static void send_request(struct connection *c, int64_t since) {
    char request[16384];
    int length = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\n", paths[next_path], headers);
    if (length < 0 || (size_t)length >= sizeof request)
        fail("a path is too long", paths[next_path]);
    next_path = (next_path + 1) % path_count;
    c->since = since;
    c->have = 0;
    c->busy = 1;
    if (send(c->fd, request, length, MSG_NOSIGNAL) != length)
        fail("cannot send", strerror(errno));
}

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
    if (strncmp(c->buffer, "HTTP/1.1 200 ", 13) != 0)
        fail("the answer is not a 200", c->buffer);
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
    c->busy = 0;
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void read_paths(void) {
    char *line = NULL;
    size_t size = 0;
    ssize_t length;
    while ((length = getline(&line, &size, stdin)) > 0) {
        while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == '\r'))
            line[--length] = 0;
        if (length == 0)
            continue;
        if (path_count == MAX_PATHS)
            fail("too many paths", line);
        paths[path_count++] = strdup(line);
    }
    free(line);
    if (path_count == 0)
        fail("no path", "standard input is empty");
}

static void report(double seconds, int count) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    if (answered == 0)
        fail("no answer", "the server was silent for the whole measurement");
    qsort(latencies, answered, sizeof *latencies, ascending);
    printf("{\"requests\": %zu, \"seconds\": %.6f, \"bytes\": %llu, \"connections\": %d, \"p50_us\": %u, \"p99_us\": %u, \"max_us\": %u, "
           "\"client_cpu\": %.4f}\n",
           answered, seconds, (unsigned long long)bytes, count, latencies[answered / 2], latencies[(size_t)(answered * 0.99)],
           latencies[answered - 1], cpu);
}

/* Send what is due and arm the timer for what is due next; stops arming after `end`. */
static void send_due(int timer, int count, int64_t interval, int64_t end) {
    int64_t at = now(), next = INT64_MAX;
    for (int i = 0; i < count; i++) {
        struct connection *c = &connections[i];
        if (!c->busy && c->due <= at && c->due < end) {
            send_request(c, c->due);
            c->due += interval;
        }
        if (!c->busy && c->due < next)
            next = c->due;
    }
    if (next < end) {
        struct itimerspec when = {.it_value = {.tv_sec = next / 1000000000, .tv_nsec = next % 1000000000}};
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
    }
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: load PORT CONNECTIONS SECONDS RATE [HEADER...] < PATHS\n");
        return 2;
    }
    int port = atoi(argv[1]), count = atoi(argv[2]);
    double seconds = atof(argv[3]), rate = atof(argv[4]);
    if (count < 1 || count > MAX_CONNECTIONS)
        fail("CONNECTIONS must be 1 to 256", argv[2]);
    if (rate > 0 && rate * seconds < count)
        fail("RATE leaves a connection without a request", argv[4]);
    size_t used = 0;
    for (int i = 5; i < argc; i++) {
        int n = snprintf(headers + used, sizeof headers - used, "%s\r\n", argv[i]);
        if (n < 0 || (used += n) >= sizeof headers)
            fail("too many headers", argv[i]);
    }
    read_paths();
    int poll = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    for (int i = 0; i < count; i++) {
        open_connection(&connections[i], port);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &connections[i]};
        epoll_ctl(poll, EPOLL_CTL_ADD, connections[i].fd, &event);
    }
    struct epoll_event tick = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poll, EPOLL_CTL_ADD, timer, &tick);
    int64_t start = now(), end = start + (int64_t)(seconds * 1e9), last = start;
    int64_t interval = rate > 0 ? (int64_t)(count * 1e9 / rate) : 0;
    for (int i = 0; i < count; i++) {
        if (rate > 0)
            connections[i].due = start + interval * i / count;
        else
            send_request(&connections[i], now());
    }
    int outstanding = count;
    while (outstanding > 0) {
        if (rate > 0)
            send_due(timer, count, interval, end);
        struct epoll_event events[64];
        int n = epoll_wait(poll, events, 64, 30000);
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
            ssize_t got = recv(c->fd, c->buffer + c->have, BUFFER - c->have, 0);
            if (got <= 0)
                fail("the server closed the connection", got < 0 ? strerror(errno) : "in the middle of the measurement");
            c->have += got;
            if (!is_whole(c))
                continue;
            last = now();
            record(c, last);
            if (rate > 0 ? c->due >= end : last >= end)
                outstanding--;
            else if (rate == 0)
                send_request(c, last);
        }
    }
    report((last - start) / 1e9, count);
    return 0;
}
