"""Reads what is committed in topics, to their ends, with kafka-python: one JSON object a record."""

import base64
import json
import re
import sys

from kafka import KafkaConsumer, TopicPartition


def text(value):
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(value).decode()


def main(brokers, pattern):
    consumer = KafkaConsumer(
        bootstrap_servers=brokers,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        group_id=None,
    )
    topics = [topic for topic in consumer.topics() if re.fullmatch(pattern, topic)]
    partitions = [TopicPartition(t, p) for t in topics for p in consumer.partitions_for_topic(t) or ()]
    if not partitions:
        return
    consumer.assign(partitions)
    consumer.seek_to_beginning()
    ends = consumer.end_offsets(partitions)
    idle = 0
    while idle < 40 and any(consumer.position(p) < ends[p] for p in partitions):
        batch = consumer.poll(timeout_ms=250)
        idle = 0 if batch else idle + 1
        for records in batch.values():
            for record in records:
                print(
                    json.dumps(
                        {
                            "topic": record.topic,
                            "partition": record.partition,
                            "offset": record.offset,
                            "timestamp": record.timestamp,
                            "key": text(record.key),
                            "value": text(record.value),
                            "headers": {name: text(value) for name, value in record.headers},
                        }
                    )
                )
    consumer.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
