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

  # Weir's configuration keys as environment variables: the only place with their names.
  settings = merge(
    {
      # The network policy restricts access.
      WEIR_INSECURE             = "true"
      WEIR_LOGGING_FORMAT       = "json"
      WEIR_DATA_DIR             = "/var/lib/weir"
      WEIR_MQTT_ADDRESS         = "0.0.0.0:1883"
      WEIR_MQTT_MAX_CONNECTIONS = tostring(var.ingest.connections)
      WEIR_GRPC_ADDRESS         = "0.0.0.0:50051"
      WEIR_HTTP_ADDRESS         = "0.0.0.0:8080"
      WEIR_FLEET_ADDRESS        = "0.0.0.0:50052"
      WEIR_FLEET_ADVERTISE      = "$(POD_IP):50052"
      WEIR_REDIS_NODE           = "$(POD_NAME)"
      WEIR_MONGODB_DATABASE     = var.database_name
      # Until no proxy sends new connections; the rest of the grace is for the six parts that stop.
      WEIR_SHUTDOWN_DELAY_MS     = "10000"
      WEIR_SHUTDOWN_TIMEOUT_SECS = tostring(floor((var.termination_grace_seconds - 10) / 6))
    },
    var.influxdb == null ? {} : {
      WEIR_INFLUXDB_URL    = var.influxdb.url
      WEIR_INFLUXDB_ORG    = var.influxdb.org
      WEIR_INFLUXDB_BUCKET = var.influxdb.bucket
    },
    var.settings,
  )
  secrets = merge(
    {
      WEIR_REDIS_URLS   = "redis-url"
      WEIR_MONGODB_URI  = "database-url"
      WEIR_FLEET_SECRET = "fleet-secret"
    },
    var.influxdb == null ? {} : { WEIR_INFLUXDB_TOKEN = "influxdb-token" },
  )

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
    resources          = var.resources
    grace_seconds      = var.termination_grace_seconds
  }
}
