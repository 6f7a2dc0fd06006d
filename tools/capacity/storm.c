/* storm: callers that a server asks to leave, or that lose it, and that come back to another one.
 *
 *   storm PORT OTHER PATH CALLERS ADDRESSES FIRST WAIT SECONDS
 *
 * Opens CALLERS WebSockets to 127.0.0.1:PORT from source addresses 127.0.FIRST.1 and up, and says "open" on standard error. A caller
 * whose connection ends, with a Close or without, connects to OTHER after a random time of up to WAIT seconds; if that fails, again
 * after up to twice as long, and so on. SIGUSR1 begins the time; it ends when all have come back, or after SECONDS.
 * Prints one line of JSON: "left" and "back" (how many, in each tenth of a second), how many attempts failed, and how long those
 * that succeeded took, from SYN to the response, in milliseconds. Loopback only.
 * Build: cc -O2 -o storm storm.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { WAITING, CONNECTING, HANDSHAKE, OPEN, AWAY };
enum { TENTHS = 1200, TIMEOUT = 30000 };
typedef struct { int fd, state, failures, used; uint64_t due, began; char head[512]; } Caller;

static int ep, ports[2], addresses, first, at_other;
static double wait_;
static const char *path;
static volatile sig_atomic_t go;
static uint64_t started, opened, back, failed, late, left_[TENTHS], back_[TENTHS], again;
static float *took;

static uint64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000ull + t.tv_nsec / 1000000; }
static void begin(int number) { (void)number; go = 1; }
static int tenth(void) { uint64_t t = started ? (now() - started) / 100 : 0; return t < TENTHS ? (int)t : TENTHS - 1; }

/* Come back later: after a random time, longer with each failure in a row, at most 30 s. */
static void later(Caller *c) {
    double most = wait_ * 1000 * (double)(1 << (c->failures < 5 ? c->failures : 5));
    close(c->fd); c->state = AWAY; c->used = 0;
    c->due = now() + (uint64_t)(drand48() * (most < TIMEOUT ? most : TIMEOUT));
}
static void fail(Caller *c) { failed++; c->failures++; later(c); }
static void dial(Caller *c, int number) {
    int one = 1; struct sockaddr_in s = {.sin_family = AF_INET}, d = {.sin_family = AF_INET};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) { perror("socket"); exit(2); }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, IPPROTO_IP, 24 /* IP_BIND_ADDRESS_NO_PORT */, &one, sizeof one);
    s.sin_addr.s_addr = htonl(0x7f000000u + (unsigned)first * 256u + 1u + (unsigned)(number % addresses));
    if (bind(c->fd, (void *)&s, sizeof s)) { perror("bind"); exit(2); }
    d.sin_port = htons(ports[at_other]); d.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->state = CONNECTING; c->used = 0; c->began = now();
    if (connect(c->fd, (void *)&d, sizeof d) && errno != EINPROGRESS) { fail(c); return; }
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
}
static void ready(Caller *c, unsigned events) {
    char request[512], buffer[4096];
    if (c->state == CONNECTING) {
        if (events & (EPOLLERR | EPOLLHUP)) { fail(c); return; }
        if (!(events & EPOLLOUT)) return;
        int n = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: RmNX6Mdh0cnQqmc8am4nng==\r\nSec-WebSocket-Version: 13\r\n\r\n", path, ports[at_other]);
        if (send(c->fd, request, n, MSG_NOSIGNAL) != n) { fail(c); return; }
        c->state = HANDSHAKE;
    }
    while (c->state == HANDSHAKE || c->state == OPEN) {
        int n = (int)recv(c->fd, buffer, sizeof buffer, 0), from = 0;
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            if (c->state == HANDSHAKE) { fail(c); return; }
            left_[tenth()]++; c->failures = 0; later(c); return;
        }
        if (c->state == HANDSHAKE) {
            int k = n < (int)sizeof c->head - 1 - c->used ? n : (int)sizeof c->head - 1 - c->used;
            memcpy(c->head + c->used, buffer, k); c->used += k; c->head[c->used] = 0;
            char *end = strstr(c->head, "\r\n\r\n");
            if (!end) { if (c->used == (int)sizeof c->head - 1) { fail(c); return; } continue; }
            if (memcmp(c->head + 9, "101", 3)) { fail(c); return; }
            from = n - (c->used - (int)(end + 4 - c->head));
            c->state = OPEN; opened++;
            if (at_other) {
                uint64_t ms = now() - c->began;
                took[back] = (float)ms; back++; back_[tenth()]++; late += ms >= 1000; again += c->failures > 0;
            }
        }
        /* Frames of a server that has nothing to say begin at the beginning of a read. */
        for (int i = from; i + 2 <= n; i += 2 + (buffer[i + 1] & 127)) {
            int op = buffer[i] & 15, size = buffer[i + 1] & 127;
            char answer[6 + 125] = {(char)(0x80 | (op == 9 ? 10 : op)), (char)(0x80 | size)};
            if ((op != 8 && op != 9) || i + 2 + size > n) continue;
            memcpy(answer + 6, buffer + i + 2, size); /* the mask is 0 */
            if (send(c->fd, answer, 6 + size, MSG_NOSIGNAL) < 0) break;
        }
    }
}
static int order(const void *a, const void *b) { float x = *(const float *)a, y = *(const float *)b; return (x > y) - (x < y); }
static void list(const char *name, const uint64_t *of) {
    int last = TENTHS - 1; while (last > 0 && !of[last]) last--;
    printf("\"%s\": [", name);
    for (int i = 0; i <= last; i++) printf("%s%lu", i ? ", " : "", of[i]);
    printf("], ");
}
int main(int argc, char **argv) {
    if (argc != 9) { fprintf(stderr, "usage: see the head of storm.c\n"); return 2; }
    ports[0] = atoi(argv[1]); ports[1] = atoi(argv[2]); path = argv[3];
    int count = atoi(argv[4]), next = 0; addresses = atoi(argv[5]); first = atoi(argv[6]); wait_ = atof(argv[7]);
    double seconds = atof(argv[8]);
    signal(SIGUSR1, begin); srand48(getpid());
    ep = epoll_create1(0);
    Caller *all = calloc(count, sizeof *all); took = calloc((size_t)count * 4, sizeof *took);
    struct epoll_event events[1024]; uint64_t looked = 0;
    for (;;) {
        while (next < count && (uint64_t)next - opened < 64) { dial(&all[next], next); next++; }
        int n = epoll_wait(ep, events, 1024, 5);
        for (int i = 0; i < n; i++) ready(events[i].data.ptr, events[i].events);
        if (!at_other && opened == (uint64_t)count) { at_other = 1; fprintf(stderr, "open\n"); }
        if (failed && !at_other) { fprintf(stderr, "a connection failed\n"); return 1; }
        if (go && !started) started = now();
        uint64_t t = now();
        if (at_other && t - looked >= 5) {
            looked = t;
            for (int i = 0; i < count; i++) {
                if (all[i].state == AWAY && all[i].due <= t) dial(&all[i], i);
                else if ((all[i].state == CONNECTING || all[i].state == HANDSHAKE) && t - all[i].began > TIMEOUT) fail(&all[i]);
            }
        }
        if (started && (back >= (uint64_t)count || (double)(t - started) > seconds * 1000)) break;
    }
    qsort(took, back, sizeof *took, order);
    printf("{"); list("left", left_); list("back", back_);
    printf("\"callers\": %d, \"came\": %lu, \"failed\": %lu, \"again\": %lu, \"late\": %lu, \"p50\": %.0f, \"p99\": %.0f, \"longest\": %.0f}\n", count,
        back, failed, again, late, back ? took[back / 2] : 0, back ? took[back * 99 / 100] : 0, back ? took[back - 1] : 0);
    fflush(stdout);
    pause(); /* hold what is open until killed */
}
