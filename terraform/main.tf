resource "kubernetes_namespace_v1" "this" {
  count = var.create_namespace ? 1 : 0

  metadata {
    name = var.namespace
    labels = merge(local.labels, {
      "pod-security.kubernetes.io/enforce" = "restricted"
      "pod-security.kubernetes.io/warn"    = "restricted"
    })
  }
}

resource "kubernetes_service_account_v1" "this" {
  metadata {
    name      = var.name
    namespace = local.namespace
    labels    = local.labels
  }

  # Weir does not use the Kubernetes API.
  automount_service_account_token = false
}

resource "kubernetes_secret_v1" "this" {
  count = var.existing_secret == "" ? 1 : 0

  metadata {
    name      = var.name
    namespace = local.namespace
    labels    = local.labels
  }

  data = merge(
    {
      "redis-url"    = var.redis_url
      "database-url" = var.database_url
      "fleet-secret" = var.fleet_secret
    },
    var.influxdb == null ? {} : { "influxdb-token" = var.influxdb_token },
  )

  lifecycle {
    precondition {
      condition     = var.redis_url != "" && var.database_url != "" && var.fleet_secret != ""
      error_message = "Set redis_url, database_url and fleet_secret, or set existing_secret to a Secret that holds them."
    }
    precondition {
      condition     = var.influxdb == null || var.influxdb_token != ""
      error_message = "Set influxdb_token, or set existing_secret to a Secret that holds it."
    }
  }
}

module "ingest" {
  source = "./role"

  common   = local.role
  role     = "ingest"
  replicas = local.replicas["ingest"]
  ports    = { "tcp-mqtt" = 1883, "http" = 8080 }

  # Readings acknowledged while Redis was unavailable are only on this volume.
  storage = { size = var.ingest.storage, class = var.ingest.storage_class }
}

module "flusher" {
  source = "./role"

  common   = local.role
  role     = "flusher"
  replicas = local.replicas["flusher"]
  ports    = { "grpc-fleet" = 50052, "http" = 8080 }
}

module "api" {
  source = "./role"

  common   = local.role
  role     = "api"
  replicas = local.replicas["api"]
  ports    = { "grpc" = 50051, "http" = 8080 }
}

resource "kubernetes_service_v1" "mqtt" {
  metadata {
    name        = "${var.name}-mqtt"
    namespace   = local.namespace
    labels      = local.labels
    annotations = var.mqtt_service.annotations
  }

  spec {
    type     = var.mqtt_service.type
    selector = merge(local.selector, { "app.kubernetes.io/component" = "ingest" })

    port {
      name         = "tcp-mqtt"
      port         = 1883
      target_port  = "tcp-mqtt"
      app_protocol = "mqtt"
    }
  }

  wait_for_load_balancer = false
}

resource "kubernetes_service_v1" "grpc" {
  metadata {
    name      = "${var.name}-grpc"
    namespace = local.namespace
    labels    = local.labels
  }

  spec {
    selector = merge(local.selector, { "app.kubernetes.io/component" = "api" })

    port {
      name         = "grpc"
      port         = 50051
      target_port  = "grpc"
      app_protocol = "kubernetes.io/h2c"
    }
  }
}
