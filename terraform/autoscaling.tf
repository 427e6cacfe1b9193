# Replicas are set also where an autoscaler changes them: without a number, Kubernetes starts a
# single pod and leaves it alone until an autoscaler acts. So that an apply does not undo what the
# autoscaler did, its present number is kept.
data "kubernetes_resources" "workloads" {
  for_each = var.autoscaling.enabled ? { ingest = "StatefulSet", flusher = "StatefulSet", api = "Deployment" } : {}

  api_version    = "apps/v1"
  kind           = each.value
  namespace      = var.namespace
  field_selector = "metadata.name=${var.name}-${each.key}"
}

locals {
  sizes = { ingest = var.ingest, flusher = var.flusher, api = var.api }
  replicas = {
    for role, size in local.sizes : role => min(
      max(
        size.replicas,
        var.autoscaling.enabled ? try(tonumber(data.kubernetes_resources.workloads[role].objects[0].spec.replicas), 0) : 0,
      ),
      var.autoscaling.enabled ? size.max_replicas : size.replicas,
    )
  }
}

locals {
  scaled = var.autoscaling.enabled ? {
    ingest  = { kind = "StatefulSet", least = var.ingest.replicas, most = var.ingest.max_replicas }
    flusher = { kind = "StatefulSet", least = var.flusher.replicas, most = var.flusher.max_replicas }
    api     = { kind = "Deployment", least = var.api.replicas, most = var.api.max_replicas }
  } : {}
}

resource "kubernetes_horizontal_pod_autoscaler_v2" "this" {
  for_each = local.scaled

  metadata {
    name      = "${var.name}-${each.key}"
    namespace = local.namespace
    labels    = merge(local.labels, { "app.kubernetes.io/component" = each.key })
  }

  spec {
    min_replicas = each.value.least
    max_replicas = each.value.most

    scale_target_ref {
      api_version = "apps/v1"
      kind        = each.value.kind
      name        = "${var.name}-${each.key}"
    }

    metric {
      type = "Resource"
      resource {
        name = "cpu"
        target {
          type                = "Utilization"
          average_utilization = var.autoscaling.cpu_percent
        }
      }
    }

    dynamic "metric" {
      for_each = each.key == "flusher" && var.autoscaling.flusher_lag_seconds != null ? [var.autoscaling.flusher_lag_seconds] : []
      content {
        type = "External"
        external {
          metric {
            name = "weir_flusher_lag_seconds"
            selector {
              match_labels = { namespace = local.namespace }
            }
          }
          target {
            type          = "AverageValue"
            average_value = tostring(metric.value)
          }
        }
      }
    }

    behavior {
      scale_up {
        stabilization_window_seconds = 60
        select_policy                = "Max"
        policy {
          type           = "Pods"
          value          = 2
          period_seconds = 60
        }
      }
      # A pod of ingest closes its connections and drains its spill before the next one is removed.
      scale_down {
        stabilization_window_seconds = 600
        select_policy                = "Min"
        policy {
          type           = "Pods"
          value          = 1
          period_seconds = each.key == "ingest" ? 600 : 120
        }
      }
    }
  }
}

resource "kubernetes_pod_disruption_budget_v1" "this" {
  for_each = toset(["ingest", "flusher", "api"])

  metadata {
    name      = "${var.name}-${each.key}"
    namespace = local.namespace
    labels    = merge(local.labels, { "app.kubernetes.io/component" = each.key })
  }

  spec {
    max_unavailable = "1"
    selector {
      match_labels = merge(local.selector, { "app.kubernetes.io/component" = each.key })
    }
  }
}
