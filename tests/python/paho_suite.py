"""Eclipse Paho against a broker: paho_suite.py HOST PORT. Every test runs with MQTT 3.1.1 and with MQTT 5.0."""

import queue
import sys
import threading
import unittest
import uuid

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

DEADLINE = 10  # Seconds that anything may take.
HOST, PORT = sys.argv[1], int(sys.argv[2])


def unique(name):
    return f"{name}-{uuid.uuid4().hex[:12]}"


class Client:
    """Paho with its callbacks turned into queues."""

    def __init__(self, protocol, client_id=None, persistent=False, will=None):
        self.messages = queue.Queue()
        self.session_present = None
        self.reason = None
        self.persistent = persistent
        self.v5 = protocol == paho.MQTTv5
        self._connected = threading.Event()
        self._disconnected = threading.Event()
        self._answers = {}
        self._answered = threading.Condition()
        settings = {} if self.v5 else {"clean_session": not persistent}
        self.paho = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id or unique("paho"), protocol=protocol, **settings
        )
        self.paho.on_connect = self._on_connect
        self.paho.on_disconnect = self._on_disconnect
        self.paho.on_message = lambda _client, _userdata, message: self.messages.put(message)
        self.paho.on_subscribe = lambda _client, _userdata, mid, codes, _properties: self._answer(mid, codes)
        self.paho.on_unsubscribe = lambda _client, _userdata, mid, codes, _properties: self._answer(mid, codes)
        if will is not None:
            self.paho.will_set(**will)

    def connect(self):
        settings = {}
        if self.v5:
            properties = Properties(PacketTypes.CONNECT)
            if self.persistent:
                properties.SessionExpiryInterval = 300
            settings = {"clean_start": not self.persistent, "properties": properties}
        self.paho.connect(HOST, PORT, keepalive=30, **settings)
        self.paho.loop_start()
        assert self._connected.wait(DEADLINE), "no CONNACK"
        assert self.reason == 0, self.reason
        return self

    def disconnect(self):
        self.paho.disconnect()
        assert self._disconnected.wait(DEADLINE), "not disconnected"
        self.paho.loop_stop()

    def vanish(self):
        """Closes the socket without a DISCONNECT, and does not come back."""
        self.paho.loop_stop()
        self.paho.socket().close()

    def subscribe(self, topic, qos=0, **settings):
        """The granted code. Retain Handling and the like are for 5.0 only."""
        if self.v5:
            _, mid = self.paho.subscribe(topic, options=SubscribeOptions(qos=qos, **settings))
        else:
            _, mid = self.paho.subscribe(topic, qos)
        return self._wait_for(mid)[0].value

    def unsubscribe(self, topic):
        _, mid = self.paho.unsubscribe(topic)
        self._wait_for(mid)

    def publish(self, topic, payload, qos=0, retain=False, properties=None):
        info = self.paho.publish(topic, payload, qos, retain, properties)
        info.wait_for_publish(DEADLINE)
        assert info.is_published(), f"{topic} at QoS {qos} was not acknowledged"

    def receive(self):
        return self.messages.get(timeout=DEADLINE)

    def receive_until(self, topic):
        """The payloads that came before a message to `topic`."""
        payloads = []
        while (message := self.receive()).topic != topic:
            payloads.append(message.payload.decode())
        return payloads

    def _on_connect(self, _client, _userdata, flags, reason, _properties):
        self.session_present, self.reason = flags.session_present, reason
        self._connected.set()

    def _on_disconnect(self, _client, _userdata, _flags, reason, _properties):
        self.reason = reason
        self._disconnected.set()

    def _answer(self, mid, codes):
        with self._answered:
            self._answers[mid] = codes
            self._answered.notify_all()

    def _wait_for(self, mid):
        with self._answered:
            assert self._answered.wait_for(lambda: mid in self._answers, DEADLINE), "no answer"
            return self._answers.pop(mid)


class Common:
    """What holds for both versions."""

    protocol = None

    def client(self, *args, **settings):
        return Client(self.protocol, *args, **settings).connect()

    def test_every_qos(self):
        topic = unique("qos")
        subscriber, publisher = self.client(), self.client()
        for granted in range(3):
            self.assertEqual(subscriber.subscribe(topic, granted), granted)
            for qos in range(3):
                publisher.publish(topic, f"{qos} as {granted}", qos)
                message = subscriber.receive()
                self.assertEqual(message.payload.decode(), f"{qos} as {granted}")
                self.assertEqual((message.qos, message.retain), (min(qos, granted), False))
        subscriber.disconnect()
        publisher.disconnect()

    def test_order_of_many(self):
        for qos in range(3):
            topic = unique("order")
            subscriber, publisher = self.client(), self.client()
            subscriber.subscribe(topic, qos)
            infos = [publisher.paho.publish(topic, str(number), qos) for number in range(300)]
            for info in infos:
                info.wait_for_publish(DEADLINE)
            self.assertEqual([int(subscriber.receive().payload) for _ in range(300)], list(range(300)))
            subscriber.disconnect()
            publisher.disconnect()

    def test_retained(self):
        topic = unique("retained")
        publisher = self.client()
        for qos in range(3):
            publisher.publish(topic, f"kept {qos}", qos, retain=True)
            late = self.client()
            late.subscribe(f"{topic}/#", 2)
            message = late.receive()
            self.assertEqual((message.payload.decode(), message.qos, message.retain), (f"kept {qos}", qos, True))
            late.disconnect()
        publisher.publish(topic, b"", 1, retain=True)
        late = self.client()
        late.subscribe(topic, 1)
        publisher.publish(topic, "fence", 1)
        self.assertEqual(late.receive().payload, b"fence")
        late.disconnect()
        publisher.disconnect()

    def test_will(self):
        topic = unique("will")
        observer = self.client()
        observer.subscribe(topic, 2)
        for qos in range(3):
            will = {"topic": topic, "payload": f"gone {qos}", "qos": qos, "retain": False}
            self.client(will=will).vanish()
            message = observer.receive()
            self.assertEqual((message.payload.decode(), message.qos), (f"gone {qos}", qos))
        self.client(will={"topic": topic, "payload": "not sent"}).disconnect()
        publisher = self.client()
        publisher.publish(topic, "fence", 1)
        self.assertEqual(observer.receive().payload, b"fence")
        observer.disconnect()
        publisher.disconnect()

    def test_session_is_resumed(self):
        publisher = self.client()
        for qos in [1, 2]:
            topic, client_id = unique("resume"), unique("resume")
            subscriber = self.client(client_id, persistent=True)
            self.assertFalse(subscriber.session_present)
            subscriber.subscribe(topic, 2)
            subscriber.disconnect()
            for number in range(50):
                publisher.publish(topic, str(number), qos)
            subscriber = self.client(client_id, persistent=True)
            self.assertTrue(subscriber.session_present)
            self.assertEqual([int(subscriber.receive().payload) for _ in range(50)], list(range(50)))
            subscriber.disconnect()
            subscriber = self.client(client_id)
            self.assertFalse(subscriber.session_present)
            publisher.publish(topic, "nobody", 1)
            self.assertTrue(subscriber.messages.empty())
            subscriber.disconnect()
        publisher.disconnect()

    def test_shared_subscriptions(self):
        topic, fence = unique("shared"), unique("fence")
        members = [self.client() for _ in range(3)]
        for member in members:
            self.assertEqual(member.subscribe(f"$share/group/{topic}", 1), 1)
            member.subscribe(fence, 1)
        publisher = self.client()
        for number in range(30):
            publisher.publish(topic, f"{number:02}", 1)
        publisher.publish(fence, "", 1)
        got = [member.receive_until(fence) for member in members]
        self.assertEqual(sorted(sum(got, [])), [f"{number:02}" for number in range(30)])
        self.assertTrue(all(got), got)
        for client in [*members, publisher]:
            client.disconnect()

    def test_unsubscribe(self):
        topic, fence = unique("unsubscribe"), unique("fence")
        client = self.client()
        client.subscribe(topic, 0)
        client.subscribe(fence, 0)
        client.unsubscribe(topic)
        client.publish(topic, "x", 1)
        client.publish(fence, "x", 1)
        self.assertEqual(client.receive().topic, fence)
        client.disconnect()

    def test_takeover(self):
        client_id = unique("takeover")
        old = Client(self.protocol, client_id)
        ended = threading.Event()
        old.paho.on_disconnect = lambda *_: (ended.set(), old.paho.disconnect())
        old.connect()
        new = self.client(client_id)
        self.assertTrue(ended.wait(DEADLINE))
        old.paho.loop_stop()
        new.disconnect()

    def test_large_payload(self):
        topic = unique("large")
        client = self.client()
        client.subscribe(topic, 2)
        payload = bytes(range(256)) * 4000
        for qos in range(3):
            client.publish(topic, payload, qos)
            self.assertEqual(client.receive().payload, payload)
        client.disconnect()


class Mqtt311(Common, unittest.TestCase):
    protocol = paho.MQTTv311


class Mqtt5(Common, unittest.TestCase):
    protocol = paho.MQTTv5

    def test_properties(self):
        topic = unique("properties")
        client = self.client()
        client.subscribe(topic, 1)
        properties = Properties(PacketTypes.PUBLISH)
        properties.PayloadFormatIndicator = 1
        properties.ContentType = "text/plain"
        properties.ResponseTopic = "answers"
        properties.CorrelationData = b"\x00\xff"
        properties.UserProperty = [("b", "1"), ("a", "2"), ("b", "1")]
        properties.MessageExpiryInterval = 100
        client.publish(topic, "x", 1, properties=properties)
        seen = client.receive().properties
        for name in ["PayloadFormatIndicator", "ContentType", "ResponseTopic", "CorrelationData", "UserProperty"]:
            self.assertEqual(getattr(seen, name), getattr(properties, name))
        self.assertLessEqual(seen.MessageExpiryInterval, 100)
        client.disconnect()

    def test_no_local_and_retain_handling(self):
        topic = unique("options")
        client, other = self.client(), self.client()
        other.publish(topic, "kept", 1, retain=True)
        client.subscribe(topic, 1, noLocal=True, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        client.publish(topic, "from me", 1)
        other.publish(topic, "from another", 1)
        self.assertEqual(client.receive().payload, b"from another")
        other.publish(topic, "", 1, retain=True)
        client.disconnect()
        other.disconnect()

    def test_retain_as_published(self):
        topic = unique("as-published")
        client, other = self.client(), self.client()
        client.subscribe(topic, 0, retainAsPublished=True)
        other.publish(topic, "x", 1, retain=True)
        self.assertTrue(client.receive().retain)
        other.publish(topic, "", 1, retain=True)
        client.disconnect()
        other.disconnect()

    def test_will_delay_is_cancelled(self):
        topic, client_id = unique("delay"), unique("delay")
        observer = self.client()
        observer.subscribe(topic, 0)
        delay = Properties(PacketTypes.WILLMESSAGE)
        delay.WillDelayInterval = 2
        will = {"topic": topic, "payload": "gone", "properties": delay}
        self.client(client_id, persistent=True, will=will).vanish()
        back = self.client(client_id, persistent=True)
        # A will of somebody else, delayed as long and started later, is the clock.
        marker = {"topic": topic, "payload": "marker", "properties": delay}
        self.client(unique("marker"), persistent=True, will=marker).vanish()
        self.assertEqual(observer.receive().payload, b"marker")
        back.disconnect()
        observer.disconnect()


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v"])
