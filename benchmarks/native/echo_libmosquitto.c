/* What a C programmer would write: libmosquitto, one message out for each reading, as long as a prediction
   of atoll. Answers with the reading's own time, seq and boot, and infers nothing.

   usage: echo_libmosquitto PORT QOS INFLIGHT */
#define _GNU_SOURCE
#include <mosquitto.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int qos;

/* Returns the text of the value behind `key`, up to the next comma or brace. */
static int value_of(const struct mosquitto_message *message, const char *key, const char **text) {
    const char *begin = memmem(message->payload, message->payloadlen, key, strlen(key));
    const char *end = (const char *)message->payload + message->payloadlen, *at;
    if (begin == NULL) return 0;
    begin += strlen(key);
    for (at = begin; at < end && *at != ',' && *at != '}'; at++) continue;
    *text = begin;
    return at - begin;
}

static void on_connect(struct mosquitto *client, void *unused, int code) {
    (void)unused;
    if (code != 0) exit(1);
    mosquitto_subscribe(client, NULL, "atoll/v1/bench/+/reading/press", qos);
}

static void on_message(struct mosquitto *client, void *unused, const struct mosquitto_message *message) {
    char topic[256], answer[512];
    const char *device = strchr(message->topic + strlen("atoll/v1/"), '/') + 1, *time, *seq, *boot;
    int device_length = strchr(device, '/') - device;
    int time_length = value_of(message, "\"time_ms\":", &time), seq_length = value_of(message, "\"seq\":", &seq);
    int boot_length = value_of(message, "\"boot\":", &boot);
    (void)unused;
    snprintf(topic, sizeof topic, "atoll/v1/bench/sut/prediction/%.*s/wear", device_length, device);
    int length = snprintf(answer, sizeof answer,
                          "{\"time_ms\":%.*s,\"value\":0.93123453855514526,\"release\":1,\"latency_ms\":0.412,"
                          "\"seq\":%.*s,\"boot\":%.*s,\"stream\":\"press\"}",
                          time_length, time, seq_length, seq, boot_length, boot);
    mosquitto_publish(client, NULL, topic, length, answer, qos, false);
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    qos = atoi(argv[2]);
    mosquitto_lib_init();
    struct mosquitto *client = mosquitto_new("sut", true, NULL);
    mosquitto_int_option(client, MOSQ_OPT_TCP_NODELAY, 1);
    mosquitto_max_inflight_messages_set(client, atoi(argv[3]));
    mosquitto_connect_callback_set(client, on_connect);
    mosquitto_message_callback_set(client, on_message);
    if (mosquitto_connect(client, "127.0.0.1", atoi(argv[1]), 60) != MOSQ_ERR_SUCCESS) return 1;
    return mosquitto_loop_forever(client, -1, 1);
}
