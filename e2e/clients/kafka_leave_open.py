"""Writes a record in a transaction with kafka-python and kills itself before the transaction ends."""

import os
import signal
import sys

from kafka import KafkaProducer

# The longest that Kafka allows by default: no test waits for it.
TRANSACTION_TIMEOUT_MS = 900_000


def main(brokers, transactional_id, topic, key, value):
    producer = KafkaProducer(
        bootstrap_servers=brokers,
        transactional_id=transactional_id,
        transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
    )
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(topic, key=key.encode(), value=value.encode(), partition=0).get(timeout=30)
    print("written", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
