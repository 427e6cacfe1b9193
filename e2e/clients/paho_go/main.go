// Eclipse Paho Go, unmodified: HOST PORT VERSION COUNT. Publishes, is acknowledged, and is sent what it subscribed to.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	five "github.com/eclipse/paho.golang/paho"
	three "github.com/eclipse/paho.mqtt.golang"
)

const bound = 10 * time.Second

type seen struct{ n, qos int }

func reading(n int) []byte {
	return []byte(fmt.Sprintf(`{"n":%d,"temperature":%g}`, n, 20+float64(n)/8))
}

func saw(messages chan<- seen, payload []byte, qos byte) {
	var reading struct{ N int }
	if err := json.Unmarshal(payload, &reading); err != nil {
		log.Fatal(err)
	}
	messages <- seen{reading.N, int(qos)}
}

func check(messages <-chan seen, count int) {
	had := map[int]bool{}
	for len(had) < count {
		select {
		case one := <-messages:
			if had[one.n] || one.qos != one.n%3 {
				log.Fatalf("message %d at QoS %d is wrong or not the first", one.n, one.qos)
			}
			had[one.n] = true
		case <-time.After(bound):
			log.Fatalf("the subscriber saw %d of %d", len(had), count)
		}
	}
}

func must(token three.Token) {
	if !token.WaitTimeout(bound) {
		log.Fatal("no answer")
	}
	if err := token.Error(); err != nil {
		log.Fatal(err)
	}
}

func version3(server, device, topic string, count int, messages chan seen) {
	options := three.NewClientOptions().AddBroker("tcp://" + server).SetClientID(device).SetProtocolVersion(4)
	client := three.NewClient(options.SetConnectRetry(false).SetAutoReconnect(false))
	must(client.Connect())
	must(client.Subscribe(topic, 2, func(_ three.Client, message three.Message) {
		saw(messages, message.Payload(), message.Qos())
	}))
	for n := 0; n < count; n++ {
		must(client.Publish(topic, byte(n%3), false, reading(n)))
	}
	check(messages, count)
	client.Disconnect(1000)
}

func version5(server, device, topic string, count int, messages chan seen) {
	connection, err := net.Dial("tcp", server)
	if err != nil {
		log.Fatal(err)
	}
	received := func(packet five.PublishReceived) (bool, error) {
		saw(messages, packet.Packet.Payload, packet.Packet.QoS)
		return true, nil
	}
	client := five.NewClient(five.ClientConfig{
		Conn: connection, OnPublishReceived: []func(five.PublishReceived) (bool, error){received},
	})
	soon, cancel := context.WithTimeout(context.Background(), 3*bound)
	defer cancel()
	if _, err := client.Connect(soon, &five.Connect{ClientID: device, CleanStart: true, KeepAlive: 30}); err != nil {
		log.Fatal(err)
	}
	filters := []five.SubscribeOptions{{Topic: topic, QoS: 2}}
	granted, err := client.Subscribe(soon, &five.Subscribe{Subscriptions: filters})
	if err != nil || granted.Reasons[0] != 2 {
		log.Fatal(granted, err)
	}
	for n := 0; n < count; n++ {
		if _, err := client.Publish(soon, &five.Publish{Topic: topic, QoS: byte(n % 3), Payload: reading(n)}); err != nil {
			log.Fatal(err)
		}
	}
	check(messages, count)
	if err := client.Disconnect(&five.Disconnect{ReasonCode: 0}); err != nil {
		log.Fatal(err)
	}
}

func main() {
	server, version := net.JoinHostPort(os.Args[1], os.Args[2]), os.Args[3]
	count, err := strconv.Atoi(os.Args[4])
	if err != nil {
		log.Fatal(err)
	}
	device := "paho-go-" + strings.ReplaceAll(version, ".", "-")
	topic, messages := "devices/"+device+"/telemetry", make(chan seen, count+1)
	if version == "5" {
		version5(server, device, topic, count, messages)
	} else {
		version3(server, device, topic, count, messages)
	}
	fmt.Println(device)
}
