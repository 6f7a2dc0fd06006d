/* keyupdate PORT COUNT: TLS 1.3, a handshake for /ws, then COUNT KeyUpdate records (RFC 8446 section 4.6.3) as fast as they are accepted;
 * it gives up when nothing is accepted for 15 s. They are made beforehand: the sender's keys do not depend on the peer. Prints the bytes accepted.
 * Build: cc -O2 -o keyupdate keyupdate.c -lssl -lcrypto */
#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char request[] = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                              "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

static int die(const char *what) {
    perror(what);
    return 1;
}

/* Write what TLS has to say; 0 when the peer takes no more. */
static int flush(BIO *out, int fd) {
    char buffer[65536];
    int size;
    while ((size = BIO_read(out, buffer, sizeof buffer)) > 0)
        if (write(fd, buffer, size) != size) return 0;
    return 1;
}

int main(int count, char **words) {
    if (count != 3) return fprintf(stderr, "keyupdate PORT COUNT\n"), 2;
    long records = atol(words[2]);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1]))};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    signal(SIGPIPE, SIG_IGN);
    int fd = socket(AF_INET, SOCK_STREAM, 0), size;
    struct timeval patience = {.tv_sec = 15};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(fd, (void *)&address, sizeof address)) return die("connect");
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL *tls = SSL_new(context);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    SSL_set_bio(tls, in, out);
    SSL_set_connect_state(tls);
    char buffer[65536];
    while (SSL_do_handshake(tls) != 1) {
        if (!flush(out, fd)) return die("handshake");
        if ((size = read(fd, buffer, sizeof buffer)) <= 0) return die("handshake");
        BIO_write(in, buffer, size);
    }
    SSL_write(tls, request, sizeof request - 1);
    if (!flush(out, fd) || read(fd, buffer, sizeof buffer) <= 0) return die("request");
    size_t made = 0, room = records * 64, sent = 0;
    char *all = malloc(room);
    if (!all) return die("malloc");
    for (long record = 0; record < records; record++) {
        SSL_key_update(tls, SSL_KEY_UPDATE_NOT_REQUESTED);
        SSL_do_handshake(tls);
        while ((size = BIO_read(out, all + made, room - made)) > 0) made += size;
    }
    while (sent < made) {
        ssize_t taken = write(fd, all + sent, made - sent);
        if (taken <= 0) break;
        sent += taken;
    }
    printf("%zu of %zu\n", sent, made);
    return 0;
}
