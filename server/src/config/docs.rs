//! What every key means: the one table behind `weir config`, the unknown-key messages and the environment.

/// A section and what it is about; the first is the top of the file.
pub(crate) const SECTIONS: &[(&str, &str)] = &[
    ("", "Weir."),
    ("mqtt", "Devices: MQTT 3.1.1 and 5."),
    ("grpc", "Third parties: gRPC and gRPC-Web."),
    ("http", "Health, metrics and the status page."),
    ("ingest", "Limits of what is read out of a payload. What exceeds them becomes a dead letter."),
    ("log", "The log on disk: what was acknowledged and is not yet in every store."),
    ("history", "The history: columns of each device's readings."),
    ("latest", "The newest value of each name of each device."),
    (
        "mongodb",
        "Readings, latest states, dead letters and retained messages in MongoDB instead of in the data folder.",
    ),
    ("redis", "The log on Redis or Valkey instead of in the data folder, which takes it while Redis is away or full."),
    ("fleet", "Several processes over one Redis and one MongoDB: what they ask of each other."),
    ("influxdb", "Readings as points in InfluxDB 2, besides the history."),
    ("logging", "What Weir says about itself, on standard error."),
    ("tracing", "Where a reading is and what took how long: spans to an OpenTelemetry collector, as Jaeger is one."),
];

/// Every key but those of `[[route]]`, with its section's name in front, in the order of the sample.
pub(crate) const KEYS: &[(&str, &str)] = &[
    ("data_dir", "Folder that holds everything. Created when it is missing; one process at a time."),
    (
        "roles",
        "What this process does: [\"all\"], or some of ingest, flusher and api, when Redis carries the logs and MongoDB holds the data.",
    ),
    ("insecure", "Listen on addresses that others can reach although there is no authentication yet."),
    ("shutdown_timeout_secs", "Seconds that an ordered stop may take for each of its parts."),
    (
        "shutdown_delay_ms",
        "Time from the signal, at which /health/ready begins to say no, to the first part that stops, in milliseconds: what a load balancer needs to notice.",
    ),
    ("mqtt.address", "IP address and port. Port 0 takes a free one (see addresses.json in the data folder)."),
    ("mqtt.max_connections", "Connections at one time; more are refused."),
    ("mqtt.max_packet_bytes", "Largest packet, in bytes."),
    ("mqtt.receive_maximum", "Unacknowledged QoS 1 and 2 messages of one connection."),
    ("mqtt.connect_timeout_ms", "Time a new connection has for its CONNECT, in milliseconds."),
    ("mqtt.max_keep_alive_secs", "Longest keep-alive, in seconds; 0 leaves it to the client."),
    ("mqtt.max_session_expiry_secs", "Longest time a session is kept after its connection, in seconds."),
    ("mqtt.topic_alias_maximum", "Topic aliases that a client may set."),
    ("mqtt.max_queued_messages", "Messages kept for one subscriber that is away or slow."),
    ("mqtt.max_retained_messages", "Retained messages held."),
    ("mqtt.drain_timeout_ms", "Time that connections have for their last acknowledgements at a stop, in milliseconds."),
    ("grpc.address", "IP address and port."),
    ("grpc.max_concurrent_calls", "Calls at one time on one connection."),
    ("grpc.max_streams", "Streams at one time over all connections."),
    ("grpc.call_timeout_ms", "Longest time of a call that is no stream, in milliseconds."),
    ("grpc.drain_timeout_ms", "Time that calls in progress have at a stop, in milliseconds."),
    ("http.address", "IP address and port."),
    (
        "ingest.max_clock_ahead_secs",
        "A device time further ahead than this, in seconds, is kept but does not order the reading.",
    ),
    ("ingest.max_depth", "Nesting of a JSON payload."),
    ("ingest.max_values", "Values of one reading."),
    ("ingest.max_readings", "Readings of one message."),
    ("ingest.max_name_bytes", "Length of a value's name, in bytes."),
    ("ingest.max_string_bytes", "Length of a text value, in bytes."),
    ("log.segment_bytes", "Size of one file of the log, in bytes. Written full of zeros before it is used."),
    (
        "log.capacity_bytes",
        "Size of the whole log, in bytes. When it is full of what no store has taken, devices wait.",
    ),
    ("log.ring_bytes", "Newest part of the log that is also kept in memory, in bytes."),
    ("log.retain_bytes", "Of what every store has taken, keep this many bytes for subscribers that come back."),
    ("log.retain_secs", "Of what every store has taken, keep at most this many seconds; 0 is no limit but the bytes."),
    (
        "history.flush_interval_ms",
        "A range is written this long after its first reading, in milliseconds. Queries see readings before that.",
    ),
    ("history.flush_records", "A range is written earlier when it has this many readings."),
    ("history.flush_bytes", "A range is written earlier when it takes this much memory, in bytes."),
    ("history.max_unflushed_bytes", "Memory for what is not written yet, in bytes; the rest waits in the log."),
    ("history.retention_secs", "Readings older than this many seconds are deleted; 0 keeps everything."),
    ("history.cache_bytes", "Memory for pages of each open file of the store, in bytes."),
    ("history.max_open_partitions", "Files of the store open at one time; each holds a span of time."),
    (
        "latest.follow_interval_ms",
        "Readings are taken in this often when nobody asks, in milliseconds; a query takes them in at once.",
    ),
    ("latest.flush_interval_ms", "Changed states are written this often, in milliseconds."),
    (
        "redis.urls",
        "Servers, as [\"redis://host:6379\"], or rediss:// for TLS; several only with cluster or sentinel_master. Empty: Redis is not used.",
    ),
    ("redis.cluster", "The urls name nodes of a Redis Cluster."),
    ("redis.sentinel_master", "The urls name sentinels, and this the master that they watch."),
    ("redis.username", "User of the servers; empty is the default user."),
    ("redis.password", "Password of the servers."),
    ("redis.sentinel_username", "User of the sentinels, when they ask for one."),
    ("redis.sentinel_password", "Password of the sentinels, when they ask for one."),
    ("redis.tls_ca_file", "PEM file with the certificate authority of rediss:// servers; empty is the system's."),
    (
        "redis.durability",
        "\"always\": servers whose settings lose what they have answered are refused. \"relaxed\": whatever the servers' settings promise.",
    ),
    ("redis.replicas", "Replicas that must have an append before it is acknowledged."),
    ("redis.replica_timeout_ms", "Time they get, in milliseconds; the append is then tried again."),
    ("redis.connect_timeout_ms", "Longest time to make a connection, in milliseconds."),
    ("redis.response_timeout_ms", "Longest time to wait for an answer, in milliseconds."),
    ("redis.max_bytes", "Memory of the server that this node's log may take, in bytes; beyond it devices wait."),
    ("redis.node", "Begins the name of this node's logs; different for each node."),
    ("redis.prefix", "Begins every key, so that two installations can share a server."),
    (
        "redis.spill_patience_ms",
        "How long Redis may take nothing, in milliseconds, before readings go to the data folder; they are moved to Redis when it is back.",
    ),
    (
        "mongodb.uri",
        "Connection string of a replica set or a sharded cluster, as mongodb://user:password@host/?replicaSet=rs0. Empty: MongoDB is not used.",
    ),
    ("mongodb.database", "Database that holds the collections."),
    (
        "mongodb.collection_prefix",
        "Begins the name of every collection, so that two installations can share a database.",
    ),
    ("mongodb.connect_timeout_ms", "Longest time to make a connection, in milliseconds."),
    ("mongodb.server_selection_timeout_ms", "Longest time to find a server that takes writes, in milliseconds."),
    (
        "mongodb.request_timeout_ms",
        "Longest time to wait for one answer, in milliseconds; the request is then repeated.",
    ),
    ("mongodb.max_pool_size", "Connections to each server."),
    (
        "fleet.address",
        "IP address and port where a flusher answers the other processes. Used when Redis and MongoDB are.",
    ),
    ("fleet.advertise", "Host and port at which the others reach it, as 10.0.0.7:50052. Empty: `fleet.address`."),
    (
        "fleet.secret",
        "The same long random text in every process: they answer nobody else. Also makes the tokens of gRPC.",
    ),
    (
        "fleet.lease_ms",
        "A log whose flusher died is taken over after this time, in milliseconds. Renewed three times as often.",
    ),
    ("influxdb.url", "Address, as http://host:8086 or https://host. Empty: InfluxDB is not used."),
    ("influxdb.token", "Token that may write to the bucket, and read it: field types and the books are then known."),
    ("influxdb.org", "Name of the organization."),
    ("influxdb.bucket", "Name of the bucket, which has to be there."),
    ("influxdb.measurement", "Measurement of every point."),
    ("influxdb.tenant_tag", "Tag with the tenant."),
    ("influxdb.device_tag", "Tag with the device id."),
    (
        "influxdb.types",
        "Fields that are to have another type than their values, as [\"count=integer\"]: float, integer, boolean or string. Numbers are floats.",
    ),
    (
        "influxdb.on_conflict",
        "A value that its field cannot hold: \"dead_letter\", \"coerce\" (made to fit if it can be), \"side_field\" (in a field beside it).",
    ),
    ("influxdb.flush_interval_ms", "Points are written this long after the first reading, in milliseconds."),
    ("influxdb.batch_lines", "Points in one request."),
    ("influxdb.in_flight", "Requests under way at one time."),
    (
        "influxdb.request_timeout_ms",
        "Longest time to wait for an answer, in milliseconds; the request is then repeated.",
    ),
    ("influxdb.ca_file", "PEM file with certificates that are trusted for https besides the public ones."),
    (
        "logging.level",
        "error, warn, info, debug or trace; also by part, as \"info,weir_broker=debug\". WEIR_LOG does the same.",
    ),
    (
        "logging.format",
        "\"text\", \"json\" (one object a line, names of the Elastic Common Schema), or \"auto\": text on a terminal, else JSON.",
    ),
    (
        "tracing.endpoint",
        "gRPC port of an OTLP collector, as http://127.0.0.1:4317 or https://host:4317. Empty: nothing is traced.",
    ),
    ("tracing.headers", "Headers of every request, as [\"authorization=Bearer abc\"]."),
    ("tracing.service_name", "What this process is called in the traces."),
    (
        "tracing.ratio",
        "Share of messages and calls that are traced, from 0 to 1. One that brings a trace context is traced if that says so.",
    ),
    ("tracing.tenants", "Tenants of which everything is traced."),
    ("tracing.devices", "Device ids of which every message is traced, whatever its tenant."),
    ("tracing.queue_spans", "Spans that may wait for the collector; more are dropped and counted."),
    (
        "tracing.timeout_ms",
        "Longest time the collector has for a batch, repeats included, in milliseconds; then it is dropped.",
    ),
];

/// What the sample says about routes.
pub(crate) const ROUTES: &str = "\
# Routes say how a payload becomes readings. Without any, these two are used:
#   devices/{device}/telemetry         a JSON object, an array of them, or a bare value
#   devices/{device}/telemetry/{name}  one value
# The first route whose topic fits takes the message. Try one with
#   weir map --topic zigbee2mqtt/kitchen --payload '{\"temperature\":21.5}' --config FILE
#
# [[route]]
# topic = \"zigbee2mqtt/{device...}\"
";
