/* Eclipse Paho C, unmodified: HOST PORT VERSION COUNT. Publishes, is acknowledged, and is sent what it subscribed to. */
#include <MQTTClient.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(int code, const char *what) {
  if (code != MQTTCLIENT_SUCCESS) {
    fprintf(stderr, "%s: %d\n", what, code);
    exit(1);
  }
}

static void check5(MQTTResponse response, int wanted, const char *what) {
  if ((int)response.reasonCode != wanted) {
    fprintf(stderr, "%s: 0x%02x\n", what, response.reasonCode);
    exit(1);
  }
  MQTTResponse_free(response);
}

int main(int count_of_arguments, char **arguments) {
  if (count_of_arguments != 5) return 2;
  int v5 = strcmp(arguments[3], "5") == 0, count = atoi(arguments[4]);
  char server[64], topic[64];
  const char *device = v5 ? "paho-c-5" : "paho-c-3-1-1";
  snprintf(server, sizeof server, "tcp://%s:%s", arguments[1], arguments[2]);
  snprintf(topic, sizeof topic, "devices/%s/telemetry", device);

  MQTTClient client;
  MQTTClient_createOptions create = MQTTClient_createOptions_initializer;
  create.MQTTVersion = v5 ? MQTTVERSION_5 : MQTTVERSION_3_1_1;
  check(MQTTClient_createWithOptions(&client, server, device, MQTTCLIENT_PERSISTENCE_NONE, NULL, &create), "create");
  if (v5) {
    MQTTClient_connectOptions connect = MQTTClient_connectOptions_initializer5;
    check5(MQTTClient_connect5(client, &connect, NULL, NULL), 0, "CONNECT");
    check5(MQTTClient_subscribe5(client, topic, 2, NULL, NULL), 2, "SUBSCRIBE");
  } else {
    MQTTClient_connectOptions connect = MQTTClient_connectOptions_initializer;
    connect.MQTTVersion = MQTTVERSION_3_1_1;
    check(MQTTClient_connect(client, &connect), "CONNECT");
    check(MQTTClient_subscribe(client, topic, 2), "SUBSCRIBE");
  }

  for (int n = 0; n < count; n++) {
    char payload[64];
    MQTTClient_deliveryToken token;
    MQTTClient_message message = MQTTClient_message_initializer;
    message.payload = payload;
    message.payloadlen = snprintf(payload, sizeof payload, "{\"n\":%d,\"temperature\":%d.125}", n, 20 + n);
    message.qos = n % 3;
    if (v5) check5(MQTTClient_publishMessage5(client, topic, &message, &token), 0, "PUBLISH");
    else check(MQTTClient_publishMessage(client, topic, &message, &token), "PUBLISH");
    check(MQTTClient_waitForCompletion(client, token, 10000), "the acknowledgement");
  }

  char *seen = calloc(count, 1);
  for (int received = 0; received < count;) {
    char *from = NULL;
    int length = 0, n = -1;
    MQTTClient_message *message = NULL;
    check(MQTTClient_receive(client, &from, &length, &message, 10000), "receive");
    if (message == NULL) {
      fprintf(stderr, "the subscriber saw %d of %d\n", received, count);
      return 1;
    }
    sscanf(message->payload, "{\"n\":%d", &n);
    if (n < 0 || n >= count || seen[n] || message->qos != n % 3) {
      fprintf(stderr, "message %d at QoS %d is wrong or not the first\n", n, message->qos);
      return 1;
    }
    seen[n] = 1;
    received++;
    MQTTClient_freeMessage(&message);
    MQTTClient_free(from);
  }
  if (v5) check(MQTTClient_disconnect5(client, 1000, MQTTREASONCODE_SUCCESS, NULL), "DISCONNECT");
  else check(MQTTClient_disconnect(client, 1000), "DISCONNECT");
  MQTTClient_destroy(&client);
  puts(device);
  return 0;
}
