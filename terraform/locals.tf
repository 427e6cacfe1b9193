locals {
  labels = merge(var.labels, {
    "app.kubernetes.io/name"       = "weir"
    "app.kubernetes.io/instance"   = var.name
    "app.kubernetes.io/managed-by" = "terraform"
  })
  selector = {
    "app.kubernetes.io/name"     = "weir"
    "app.kubernetes.io/instance" = var.name
  }

  namespace = var.create_namespace ? kubernetes_namespace_v1.this[0].metadata[0].name : var.namespace
  secret    = var.existing_secret != "" ? var.existing_secret : kubernetes_secret_v1.this[0].metadata[0].name

  # Files of the pods.
  folder = "/etc/weir"

  drain_seconds = floor((var.termination_grace_seconds - 10) / 3)

  # Weir's configuration keys as environment variables: the only place with their names.
  settings = merge(
    {
      WEIR_LOGGING_FORMAT       = "json"
      WEIR_DATA_DIR             = "/var/lib/weir"
      WEIR_MQTT_MAX_CONNECTIONS = tostring(var.ingest.connections)
      WEIR_GRPC_ADDRESS         = "0.0.0.0:50051"
      WEIR_HTTP_ADDRESS         = "0.0.0.0:8080"
      WEIR_FLEET_ADDRESS        = "0.0.0.0:50052"
      # Pods of ingest and flusher have names that a certificate can have; others are not called.
      WEIR_FLEET_ADVERTISE  = "$(POD_NAME).$(POD_SERVICE).${var.namespace}.svc:50052"
      WEIR_REDIS_NODE       = "$(POD_NAME)"
      WEIR_MONGODB_DATABASE = var.database_name
      # Until no proxy sends new connections; a third of the rest of the grace is for moving the
      # connections, the others are for the six parts that stop.
      WEIR_SHUTDOWN_DELAY_MS     = "10000"
      WEIR_MQTT_DRAIN_SECS       = tostring(local.drain_seconds)
      WEIR_SHUTDOWN_TIMEOUT_SECS = tostring(floor((var.termination_grace_seconds - 10 - local.drain_seconds) / 6))
    },
    # The network policy restricts access.
    var.insecure ? { WEIR_INSECURE = "true", WEIR_MQTT_ADDRESS = "0.0.0.0:1883" } : {
      WEIR_MQTT_ADDRESS            = "127.0.0.1:1883"
      WEIR_MQTT_TLS_ADDRESS        = "0.0.0.0:8883"
      WEIR_TLS_CERTIFICATE         = "${local.folder}/tls/tls.crt"
      WEIR_TLS_KEY                 = "${local.folder}/tls/tls.key"
      WEIR_FLEET_CERTIFICATE       = "${local.folder}/fleet/tls.crt"
      WEIR_FLEET_KEY               = "${local.folder}/fleet/tls.key"
      WEIR_FLEET_CA                = "${local.folder}/fleet/ca.crt"
      WEIR_AUTH_REQUIRED           = "true"
      WEIR_AUTH_PEPPERS            = "${local.folder}/secrets/peppers"
    },
    var.insecure || var.registry != "mongodb" ? {} : { WEIR_AUTH_REGISTRY = "mongodb" },
    local.has_client_ca ? { WEIR_TLS_CLIENT_CA = "${local.folder}/client-ca/ca.crt" } : {},
    var.influxdb == null ? {} : {
      WEIR_INFLUXDB_URL    = var.influxdb.url
      WEIR_INFLUXDB_ORG    = var.influxdb.org
      WEIR_INFLUXDB_BUCKET = var.influxdb.bucket
    },
    var.settings,
  )
  secrets = merge(
    {
      WEIR_REDIS_URLS  = "redis-url"
      WEIR_MONGODB_URI = "database-url"
    },
    var.insecure ? { WEIR_FLEET_SECRET = "fleet-secret" } : {},
    var.insecure || var.registry != "postgresql" ? {} : { WEIR_AUTH_REGISTRY = "registry-url" },
    var.influxdb == null ? {} : { WEIR_INFLUXDB_TOKEN = "influxdb-token" },
  )

  has_client_ca = !var.insecure && var.client_ca != ""

  # Folders of files from Secrets; no `items` are all keys.
  files = var.insecure ? {} : merge(
    {
      tls     = { secret = var.tls_secret, items = ["tls.crt", "tls.key"] }
      fleet   = { secret = var.fleet_tls_secret, items = ["tls.crt", "tls.key", "ca.crt"] }
      secrets = { secret = local.secret, items = ["peppers"] }
    },
    local.has_client_ca ? { client-ca = { secret = kubernetes_secret_v1.client_ca[0].metadata[0].name, items = ["ca.crt"] } } : {},
  )

  # Ports of devices: the name, the port of the pods and of the service.
  mqtt = var.insecure ? { name = "tcp-mqtt", port = 1883 } : { name = "tcp-mqtts", port = 8883 }

  role = {
    name               = var.name
    namespace          = local.namespace
    labels             = local.labels
    selector           = local.selector
    image              = "${var.image}:${var.image_tag}"
    image_pull_secrets = var.image_pull_secrets
    service_account    = kubernetes_service_account_v1.this.metadata[0].name
    settings           = local.settings
    secret             = local.secret
    secrets            = local.secrets
    folder             = local.folder
    files              = local.files
    scheme             = var.insecure ? "HTTP" : "HTTPS"
    resources          = var.resources
    grace_seconds      = var.termination_grace_seconds
  }
}
