locals {
  name     = "${var.common.name}-${var.role}"
  selector = merge(var.common.selector, { "app.kubernetes.io/component" = var.role })
  labels   = merge(var.common.labels, { "app.kubernetes.io/component" = var.role })
  settings = merge(var.common.settings, { WEIR_ROLES = var.role })
  is_named = var.named || var.storage != null
}

resource "kubernetes_deployment_v1" "this" {
  count = local.is_named ? 0 : 1

  metadata {
    name      = local.name
    namespace = var.common.namespace
    labels    = local.labels
  }

  spec {
    replicas = var.replicas

    selector {
      match_labels = local.selector
    }

    strategy {
      type = "RollingUpdate"
      rolling_update {
        max_surge       = "1"
        max_unavailable = "0"
      }
    }

    template {
      metadata {
        labels = local.labels
        annotations = {
          # Changed settings restart the pods.
          "weir.dev/settings" = sha256(jsonencode([local.settings, var.common.secret]))
        }
      }

      spec {
        service_account_name             = var.common.service_account
        automount_service_account_token  = false
        enable_service_links             = false
        termination_grace_period_seconds = var.common.grace_seconds

        security_context {
          run_as_non_root        = true
          run_as_user            = 65532
          run_as_group           = 65532
          fs_group               = 65532
          fs_group_change_policy = "OnRootMismatch"
          seccomp_profile {
            type = "RuntimeDefault"
          }
        }

        dynamic "image_pull_secrets" {
          for_each = var.common.image_pull_secrets
          content {
            name = image_pull_secrets.value
          }
        }

        dynamic "topology_spread_constraint" {
          for_each = ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
          content {
            max_skew           = 1
            topology_key       = topology_spread_constraint.value
            when_unsatisfiable = "ScheduleAnyway"
            label_selector {
              match_labels = local.selector
            }
          }
        }

        container {
          name              = "weir"
          image             = var.common.image
          image_pull_policy = "IfNotPresent"
          args              = ["run"]

          # Before variables that refer to them.
          env {
            name = "POD_NAME"
            value_from {
              field_ref {
                field_path = "metadata.name"
              }
            }
          }
          env {
            name  = "POD_SERVICE"
            value = "${local.name}-pods"
          }
          dynamic "env" {
            for_each = local.settings
            content {
              name  = env.key
              value = env.value
            }
          }
          dynamic "env" {
            for_each = var.common.secrets
            content {
              name = env.key
              value_from {
                secret_key_ref {
                  name = var.common.secret
                  key  = env.value
                }
              }
            }
          }

          dynamic "port" {
            for_each = var.ports
            content {
              name           = port.key
              container_port = port.value
              protocol       = "TCP"
            }
          }

          resources {
            requests = { cpu = var.common.resources.requests.cpu, memory = var.common.resources.requests.memory }
            limits   = { cpu = var.common.resources.limits.cpu, memory = var.common.resources.limits.memory }
          }

          # Responds from the beginning of a start; /health/ready has what it waits for.
          startup_probe {
            http_get {
              path   = "/health"
              port   = "http"
              scheme = var.common.scheme
            }
            period_seconds    = 2
            failure_threshold = 30
          }
          # Begins after the start, at the earliest after 30 s. Readiness has no such delay: devices
          # and queries reach a pod as soon as it is ready.
          liveness_probe {
            http_get {
              path   = "/health"
              port   = "http"
              scheme = var.common.scheme
            }
            initial_delay_seconds = 30
            period_seconds        = 10
            timeout_seconds       = 5
            failure_threshold     = 6
          }
          readiness_probe {
            http_get {
              path   = "/health/ready"
              port   = "http"
              scheme = var.common.scheme
            }
            period_seconds    = 5
            timeout_seconds   = 3
            failure_threshold = 2
          }

          security_context {
            # Also on the container, because the provider sends `false` otherwise.
            run_as_non_root            = true
            run_as_user                = 65532
            allow_privilege_escalation = false
            privileged                 = false
            read_only_root_filesystem  = true
            capabilities {
              drop = ["ALL"]
            }
            seccomp_profile {
              type = "RuntimeDefault"
            }
          }

          volume_mount {
            name       = "data"
            mount_path = "/var/lib/weir"
          }
          volume_mount {
            name       = "tmp"
            mount_path = "/tmp"
          }
          dynamic "volume_mount" {
            for_each = var.common.files
            content {
              name       = volume_mount.key
              mount_path = "${var.common.folder}/${volume_mount.key}"
              read_only  = true
            }
          }
        }

        dynamic "volume" {
          for_each = var.common.files
          content {
            name = volume.key
            # Read again when they change. The group of the pod reads them, no other user.
            secret {
              secret_name  = volume.value.secret
              default_mode = "0440"
              dynamic "items" {
                for_each = volume.value.items
                content {
                  key  = items.value
                  path = items.value
                }
              }
            }
          }
        }
        volume {
          name = "tmp"
          empty_dir {}
        }
        volume {
          name = "data"
          empty_dir {}
        }
      }
    }
  }

  wait_for_rollout = false
}

resource "kubernetes_stateful_set_v1" "this" {
  count = local.is_named ? 1 : 0

  metadata {
    name      = local.name
    namespace = var.common.namespace
    labels    = local.labels
  }

  spec {
    replicas              = var.replicas
    service_name          = kubernetes_service_v1.pods[0].metadata[0].name
    pod_management_policy = "Parallel"

    selector {
      match_labels = local.selector
    }

    update_strategy {
      type = "RollingUpdate"
      rolling_update {
        partition = 0
      }
    }

    # The next pod of the same name drains the spill of this pod.
    dynamic "persistent_volume_claim_retention_policy" {
      for_each = var.storage[*]
      content {
        when_deleted = "Retain"
        when_scaled  = "Retain"
      }
    }

    dynamic "volume_claim_template" {
      for_each = var.storage[*]
      content {
        metadata {
          name   = "data"
          labels = local.labels
        }
        spec {
          access_modes       = ["ReadWriteOnce"]
          storage_class_name = volume_claim_template.value.class
          resources {
            requests = { storage = volume_claim_template.value.size }
          }
        }
      }
    }

    template {
      metadata {
        labels = local.labels
        annotations = {
          # Changed settings restart the pods.
          "weir.dev/settings" = sha256(jsonencode([local.settings, var.common.secret]))
        }
      }

      spec {
        service_account_name             = var.common.service_account
        automount_service_account_token  = false
        enable_service_links             = false
        termination_grace_period_seconds = var.common.grace_seconds

        security_context {
          run_as_non_root        = true
          run_as_user            = 65532
          run_as_group           = 65532
          fs_group               = 65532
          fs_group_change_policy = "OnRootMismatch"
          seccomp_profile {
            type = "RuntimeDefault"
          }
        }

        dynamic "image_pull_secrets" {
          for_each = var.common.image_pull_secrets
          content {
            name = image_pull_secrets.value
          }
        }

        dynamic "topology_spread_constraint" {
          for_each = ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
          content {
            max_skew           = 1
            topology_key       = topology_spread_constraint.value
            when_unsatisfiable = "ScheduleAnyway"
            label_selector {
              match_labels = local.selector
            }
          }
        }

        container {
          name              = "weir"
          image             = var.common.image
          image_pull_policy = "IfNotPresent"
          args              = ["run"]

          # Before variables that refer to them.
          env {
            name = "POD_NAME"
            value_from {
              field_ref {
                field_path = "metadata.name"
              }
            }
          }
          env {
            name  = "POD_SERVICE"
            value = "${local.name}-pods"
          }
          dynamic "env" {
            for_each = local.settings
            content {
              name  = env.key
              value = env.value
            }
          }
          dynamic "env" {
            for_each = var.common.secrets
            content {
              name = env.key
              value_from {
                secret_key_ref {
                  name = var.common.secret
                  key  = env.value
                }
              }
            }
          }

          dynamic "port" {
            for_each = var.ports
            content {
              name           = port.key
              container_port = port.value
              protocol       = "TCP"
            }
          }

          resources {
            requests = { cpu = var.common.resources.requests.cpu, memory = var.common.resources.requests.memory }
            limits   = { cpu = var.common.resources.limits.cpu, memory = var.common.resources.limits.memory }
          }

          # Responds from the beginning of a start; /health/ready has what it waits for.
          startup_probe {
            http_get {
              path   = "/health"
              port   = "http"
              scheme = var.common.scheme
            }
            period_seconds    = 2
            failure_threshold = 30
          }
          # Begins after the start, at the earliest after 30 s. Readiness has no such delay: devices
          # and queries reach a pod as soon as it is ready.
          liveness_probe {
            http_get {
              path   = "/health"
              port   = "http"
              scheme = var.common.scheme
            }
            initial_delay_seconds = 30
            period_seconds        = 10
            timeout_seconds       = 5
            failure_threshold     = 6
          }
          readiness_probe {
            http_get {
              path   = "/health/ready"
              port   = "http"
              scheme = var.common.scheme
            }
            period_seconds    = 5
            timeout_seconds   = 3
            failure_threshold = 2
          }

          security_context {
            # Also on the container, because the provider sends `false` otherwise.
            run_as_non_root            = true
            run_as_user                = 65532
            allow_privilege_escalation = false
            privileged                 = false
            read_only_root_filesystem  = true
            capabilities {
              drop = ["ALL"]
            }
            seccomp_profile {
              type = "RuntimeDefault"
            }
          }

          volume_mount {
            name       = "data"
            mount_path = "/var/lib/weir"
          }
          volume_mount {
            name       = "tmp"
            mount_path = "/tmp"
          }
          dynamic "volume_mount" {
            for_each = var.common.files
            content {
              name       = volume_mount.key
              mount_path = "${var.common.folder}/${volume_mount.key}"
              read_only  = true
            }
          }
        }

        dynamic "volume" {
          for_each = var.common.files
          content {
            name = volume.key
            # Read again when they change. The group of the pod reads them, no other user.
            secret {
              secret_name  = volume.value.secret
              default_mode = "0440"
              dynamic "items" {
                for_each = volume.value.items
                content {
                  key  = items.value
                  path = items.value
                }
              }
            }
          }
        }
        volume {
          name = "tmp"
          empty_dir {}
        }
        dynamic "volume" {
          for_each = var.storage == null ? ["data"] : []
          content {
            name = volume.value
            empty_dir {}
          }
        }
      }
    }
  }

  # Without it each update reports errors.
  wait_for_rollout = false
}

# Names of the pods.
resource "kubernetes_service_v1" "pods" {
  count = local.is_named ? 1 : 0

  metadata {
    name      = "${local.name}-pods"
    namespace = var.common.namespace
    labels    = local.labels
  }

  spec {
    cluster_ip                  = "None"
    publish_not_ready_addresses = true
    selector                    = local.selector

    dynamic "port" {
      for_each = var.ports
      content {
        name        = port.key
        port        = port.value
        target_port = port.key
      }
    }
  }
}
