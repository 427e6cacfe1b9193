# Denies everything that is not allowed below.
resource "kubernetes_network_policy_v1" "deny" {
  metadata {
    name      = "${var.name}-deny"
    namespace = local.namespace
    labels    = local.labels
  }

  spec {
    pod_selector {
      match_labels = local.selector
    }
    policy_types = ["Ingress", "Egress"]
  }
}

# DNS, the stores, and the collector of traces.
resource "kubernetes_network_policy_v1" "out" {
  metadata {
    name      = "${var.name}-out"
    namespace = local.namespace
    labels    = local.labels
  }

  spec {
    pod_selector {
      match_labels = local.selector
    }
    policy_types = ["Egress"]

    egress {
      ports {
        port     = "53"
        protocol = "UDP"
      }
      ports {
        port     = "53"
        protocol = "TCP"
      }
    }

    egress {
      dynamic "to" {
        for_each = var.network.stores
        content {
          ip_block {
            cidr = to.value
          }
        }
      }
      # Stores in the cluster, which have addresses of pods.
      to {
        namespace_selector {}
      }
      dynamic "ports" {
        for_each = var.network.store_ports
        content {
          port     = tostring(ports.value)
          protocol = "TCP"
        }
      }
    }

    # Connections between the processes.
    egress {
      to {
        pod_selector {
          match_labels = local.selector
        }
      }
      ports {
        port     = "50052"
        protocol = "TCP"
      }
    }
  }
}

resource "kubernetes_network_policy_v1" "in" {
  for_each = {
    ingest = { port = tostring(local.mqtt.port), from = var.network.devices }
    api    = { port = "50051", from = var.network.clients }
  }

  metadata {
    name      = "${var.name}-${each.key}"
    namespace = local.namespace
    labels    = merge(local.labels, { "app.kubernetes.io/component" = each.key })
  }

  spec {
    pod_selector {
      match_labels = merge(local.selector, { "app.kubernetes.io/component" = each.key })
    }
    policy_types = ["Ingress"]

    ingress {
      dynamic "from" {
        for_each = each.value.from
        content {
          ip_block {
            cidr = from.value
          }
        }
      }
      ports {
        port     = each.value.port
        protocol = "TCP"
      }
    }
  }
}

# Calls of the processes among themselves.
resource "kubernetes_network_policy_v1" "fleet" {
  for_each = toset(["ingest", "flusher"])

  metadata {
    name      = "${var.name}-fleet-${each.key}"
    namespace = local.namespace
    labels    = merge(local.labels, { "app.kubernetes.io/component" = each.key })
  }

  spec {
    pod_selector {
      match_labels = merge(local.selector, { "app.kubernetes.io/component" = each.key })
    }
    policy_types = ["Ingress"]

    ingress {
      from {
        pod_selector {
          match_labels = local.selector
        }
      }
      ports {
        port     = "50052"
        protocol = "TCP"
      }
    }
  }
}

resource "kubernetes_network_policy_v1" "monitoring" {
  count = length(var.network.monitor) > 0 ? 1 : 0

  metadata {
    name      = "${var.name}-monitoring"
    namespace = local.namespace
    labels    = local.labels
  }

  spec {
    pod_selector {
      match_labels = local.selector
    }
    policy_types = ["Ingress"]

    ingress {
      from {
        namespace_selector {
          match_expressions {
            key      = "kubernetes.io/metadata.name"
            operator = "In"
            values   = var.network.monitor
          }
        }
      }
      ports {
        port     = "8080"
        protocol = "TCP"
      }
    }
  }
}
