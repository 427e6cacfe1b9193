// Eclipse Paho Java, unmodified: HOST PORT VERSION COUNT. Publishes, is acknowledged, and is sent what it subscribed to.

import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;

public class PahoJava {
    static final BlockingQueue<String> SEEN = new LinkedBlockingQueue<>();

    static void saw(byte[] payload, int qos) {
        SEEN.add(new String(payload).replaceAll("\\{\"n\":(\\d+),.*", "$1") + " at " + qos);
    }

    static byte[] reading(int n) {
        return ("{\"n\":" + n + ",\"temperature\":" + (20 + n / 8.0) + "}").getBytes();
    }

    static void check(int count) throws Exception {
        List<String> wanted = IntStream.range(0, count).mapToObj(n -> n + " at " + n % 3).sorted().toList();
        List<String> seen = new java.util.ArrayList<>();
        while (seen.size() < count) {
            String one = SEEN.poll(10, TimeUnit.SECONDS);
            if (one == null) throw new IllegalStateException("the subscriber saw " + seen);
            seen.add(one);
        }
        seen.sort(null);
        if (!seen.equals(wanted)) throw new IllegalStateException("not each once and at its QoS: " + seen);
    }

    static void three(String server, String device, String topic, int count) throws Exception {
        var client = new org.eclipse.paho.client.mqttv3.MqttClient(
            server, device, new org.eclipse.paho.client.mqttv3.persist.MemoryPersistence());
        client.setTimeToWait(10_000);
        var options = new org.eclipse.paho.client.mqttv3.MqttConnectOptions();
        options.setMqttVersion(org.eclipse.paho.client.mqttv3.MqttConnectOptions.MQTT_VERSION_3_1_1);
        client.connect(options);
        client.subscribe(topic, 2, (name, message) -> saw(message.getPayload(), message.getQos()));
        for (int n = 0; n < count; n++) client.publish(topic, reading(n), n % 3, false);
        check(count);
        client.disconnect();
        client.close();
    }

    static void five(String server, String device, String topic, int count) throws Exception {
        var client = new org.eclipse.paho.mqttv5.client.MqttClient(
            server, device, new org.eclipse.paho.mqttv5.client.persist.MemoryPersistence());
        client.setTimeToWait(10_000);
        client.connect();
        client.setCallback(new org.eclipse.paho.mqttv5.client.MqttCallback() {
            public void messageArrived(String name, org.eclipse.paho.mqttv5.common.MqttMessage message) {
                saw(message.getPayload(), message.getQos());
            }
            public void disconnected(org.eclipse.paho.mqttv5.client.MqttDisconnectResponse response) {}
            public void mqttErrorOccurred(org.eclipse.paho.mqttv5.common.MqttException error) {}
            public void deliveryComplete(org.eclipse.paho.mqttv5.client.IMqttToken token) {}
            public void connectComplete(boolean reconnect, String uri) {}
            public void authPacketArrived(int code, org.eclipse.paho.mqttv5.common.packet.MqttProperties own) {}
        });
        int granted = client.subscribe(topic, 2).getReasonCodes()[0];
        if (granted != 2) throw new IllegalStateException("granted " + granted);
        for (int n = 0; n < count; n++) client.publish(topic, reading(n), n % 3, false);
        check(count);
        client.disconnect();
        client.close();
    }

    public static void main(String[] arguments) throws Exception {
        String server = "tcp://" + arguments[0] + ":" + arguments[1];
        String device = "paho-java-" + arguments[2].replace('.', '-');
        String topic = "devices/" + device + "/telemetry";
        int count = Integer.parseInt(arguments[3]);
        if (arguments[2].equals("5")) five(server, device, topic, count);
        else three(server, device, topic, count);
        System.out.println(device);
        System.exit(0);
    }
}
