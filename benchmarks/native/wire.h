/* MQTT 3.1.1 and 5 as far as a load generator and a stub broker need it: buffers and packets. */
#ifndef WIRE_H
#define WIRE_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECT = 1, CONNACK, PUBLISH, PUBACK, SUBSCRIBE = 8, SUBACK, PINGREQ = 12, PINGRESP, DISCONNECT };

typedef struct {
    uint8_t *bytes;
    size_t begin, end, room;
} Buffer;

typedef struct {
    int fd;
    int version; /* 4: MQTT 3.1.1, 5: MQTT 5 */
    Buffer in, out;
} Wire;

typedef struct {
    int type, flags;
    const uint8_t *body;
    size_t length;
} Packet;

typedef struct {
    const uint8_t *topic, *payload;
    size_t topic_length, payload_length;
    int qos, id;
} Message;

static void die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static inline int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Returns where `size` more bytes may be written. */
static inline uint8_t *reserve(Buffer *buffer, size_t size) {
    if (buffer->room - buffer->end < size) {
        memmove(buffer->bytes, buffer->bytes + buffer->begin, buffer->end - buffer->begin);
        buffer->end -= buffer->begin;
        buffer->begin = 0;
        if (buffer->room - buffer->end < size) {
            buffer->room = 2 * (buffer->room + size);
            buffer->bytes = realloc(buffer->bytes, buffer->room);
            if (buffer->bytes == NULL) die("memory");
        }
    }
    return buffer->bytes + buffer->end;
}

static inline void append(Buffer *buffer, const void *bytes, size_t size) {
    memcpy(reserve(buffer, size), bytes, size);
    buffer->end += size;
}

static inline size_t waiting(const Buffer *buffer) { return buffer->end - buffer->begin; }

static inline void append_length(Buffer *buffer, size_t length) {
    uint8_t bytes[4];
    int count = 0;
    do {
        bytes[count] = length % 128;
        length /= 128;
        if (length > 0) bytes[count] |= 0x80;
        count++;
    } while (length > 0);
    append(buffer, bytes, count);
}

static inline void append_u16(Buffer *buffer, int number) {
    uint8_t bytes[2] = {number >> 8, number & 0xff};
    append(buffer, bytes, 2);
}

static inline void append_text(Buffer *buffer, const char *text) {
    append_u16(buffer, strlen(text));
    append(buffer, text, strlen(text));
}

static void prepare_socket(int fd) {
    int on = 1, size = 4 << 20;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0) die("fcntl");
}

/* Writes what the socket takes. */
static void flush(Wire *wire) {
    while (waiting(&wire->out) > 0) {
        ssize_t sent = send(wire->fd, wire->out.bytes + wire->out.begin, waiting(&wire->out), MSG_NOSIGNAL);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (sent < 0) die("send");
        wire->out.begin += sent;
    }
    wire->out.begin = wire->out.end = 0;
}

/* Reads once; false at the end of the stream. */
static bool receive(Wire *wire) {
    enum { MOST = 256 * 1024 };
    ssize_t size = recv(wire->fd, reserve(&wire->in, MOST), MOST, 0);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (size <= 0) return false;
    wire->in.end += size;
    return true;
}

/* Takes the next whole packet; its body lies in the buffer until the next receive. */
static bool next_packet(Buffer *in, Packet *packet) {
    const uint8_t *at = in->bytes + in->begin;
    size_t size = waiting(in), length = 0;
    for (size_t i = 1; i < 5 && i < size; i++) {
        length |= (size_t)(at[i] & 0x7f) << (7 * (i - 1));
        if (at[i] & 0x80) continue;
        if (size < 1 + i + length) return false;
        *packet = (Packet){at[0] >> 4, at[0] & 15, at + 1 + i, length};
        in->begin += 1 + i + length;
        return true;
    }
    return false;
}

static inline size_t skip_properties(const uint8_t *at) {
    size_t length = 0, i = 0;
    do length |= (size_t)(at[i] & 0x7f) << (7 * i); while (at[i++] & 0x80);
    return i + length;
}

static inline Message read_publish(const Packet *packet, int version) {
    Message message = {.qos = packet->flags >> 1 & 3};
    const uint8_t *at = packet->body;
    message.topic_length = at[0] << 8 | at[1];
    message.topic = at + 2;
    at += 2 + message.topic_length;
    if (message.qos > 0) {
        message.id = at[0] << 8 | at[1];
        at += 2;
    }
    if (version == 5) at += skip_properties(at);
    message.payload = at;
    message.payload_length = packet->body + packet->length - at;
    return message;
}

static inline void append_puback(Buffer *out, int id) {
    uint8_t packet[4] = {PUBACK << 4, 2, id >> 8, id & 0xff};
    append(out, packet, 4);
}

#endif
