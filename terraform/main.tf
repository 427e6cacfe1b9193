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
    },
    var.insecure ? { "fleet-secret" = var.fleet_secret } : { "peppers" = "${var.peppers}\n" },
    var.insecure || var.registry != "postgresql" ? {} : { "registry-url" = var.registry_url },
    var.influxdb == null ? {} : { "influxdb-token" = var.influxdb_token },
  )

  lifecycle {
    precondition {
      condition     = var.redis_url != "" && var.database_url != ""
      error_message = "Set redis_url and database_url, or set existing_secret to a Secret that holds them."
    }
    precondition {
      condition     = !var.insecure || var.fleet_secret != ""
      error_message = "Set fleet_secret, or set existing_secret to a Secret that holds it."
    }
    precondition {
      condition     = var.insecure || var.peppers != ""
      error_message = "Set peppers to \"1 $(openssl rand -hex 32)\", or set existing_secret to a Secret that holds them."
    }
    precondition {
      condition     = var.insecure || var.registry != "postgresql" || var.registry_url != ""
      error_message = "Set registry_url to the address of PostgreSQL, or use registry = \"mongodb\"."
    }
    precondition {
      condition     = var.influxdb == null || var.influxdb_token != ""
      error_message = "Set influxdb_token, or set existing_secret to a Secret that holds it."
    }
  }
}

resource "kubernetes_secret_v1" "client_ca" {
  count = local.has_client_ca ? 1 : 0

  metadata {
    name      = "${var.name}-client-ca"
    namespace = local.namespace
    labels    = local.labels
  }

  data = { "ca.crt" = var.client_ca }
}

module "ingest" {
  source = "./role"

  common   = local.role
  role     = "ingest"
  replicas = local.replicas["ingest"]
  ports    = { (local.mqtt.name) = local.mqtt.port, "grpc-fleet" = 50052, "http" = 8080 }

  # Readings acknowledged while Redis was unavailable are only on this volume.
  storage = { size = var.ingest.storage, class = var.ingest.storage_class }
}

module "flusher" {
  source = "./role"

  common   = local.role
  role     = "flusher"
  replicas = local.replicas["flusher"]
  ports    = { "grpc-fleet" = 50052, "http" = 8080 }

  # Certificates of pods have their names.
  named = true
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

    # Limits and allowed networks are by the address of the device.
    external_traffic_policy = var.mqtt_service.type != "ClusterIP" && var.mqtt_service.preserve_addresses ? "Local" : null

    port {
      name         = local.mqtt.name
      port         = local.mqtt.port
      target_port  = local.mqtt.name
      app_protocol = var.insecure ? "mqtt" : null
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
      port         = var.insecure ? 50051 : 443
      target_port  = "grpc"
      app_protocol = var.insecure ? "kubernetes.io/h2c" : null
    }
  }
}

resource "kubernetes_ingress_v1" "grpc" {
  count = var.grpc_ingress == null ? 0 : 1

  metadata {
    name      = "${var.name}-grpc"
    namespace = local.namespace
    labels    = local.labels
    annotations = coalesce(var.grpc_ingress.annotations, {
      # Streams are open for a long time.
      "nginx.ingress.kubernetes.io/backend-protocol"   = var.insecure ? "GRPC" : "GRPCS"
      "nginx.ingress.kubernetes.io/proxy-read-timeout" = "3600"
    })
  }

  spec {
    ingress_class_name = var.grpc_ingress.class

    tls {
      hosts       = [var.grpc_ingress.host]
      secret_name = var.grpc_ingress.tls_secret == "" ? null : var.grpc_ingress.tls_secret
    }

    rule {
      host = var.grpc_ingress.host
      http {
        path {
          path      = "/"
          path_type = "Prefix"
          backend {
            service {
              name = kubernetes_service_v1.grpc.metadata[0].name
              port {
                name = "grpc"
              }
            }
          }
        }
      }
    }
  }
}

# Names of Secrets that cannot be checked by a variable alone.
resource "terraform_data" "certificates" {
  lifecycle {
    precondition {
      condition     = var.insecure || (var.tls_secret != "" && var.fleet_tls_secret != "")
      error_message = "Set tls_secret and fleet_tls_secret to Secrets with certificates (README.md has the commands), or insecure = true in a trusted network."
    }
  }
}
