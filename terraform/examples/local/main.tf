# Everything on a laptop: kind or minikube, with the stores in the cluster, one pod of each role and
# no persistent data. README.md beside this file has the commands.
terraform {
  required_version = ">= 1.9"

  required_providers {
    kubernetes = {
      source  = "hashicorp/kubernetes"
      version = ">= 3.0.0, < 4.0.0"
    }
  }
}

provider "kubernetes" {
  config_path = var.kubeconfig
}

variable "kubeconfig" {
  description = "Path of the kubeconfig."
  type        = string
  default     = "~/.kube/config"
}

variable "image_tag" {
  description = "Tag of the image that was loaded into the cluster."
  type        = string
  default     = "0.1.0"
}

variable "peppers" {
  description = "Peppers of the registry: \"1 $(openssl rand -hex 32)\"."
  type        = string
  sensitive   = true
}

locals {
  namespace = "weir"
  stores = {
    redis = {
      image   = "redis:7.4.7-alpine"
      port    = 6379
      user    = 999
      path    = "/data"
      command = ["redis-server", "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"]
    }
    mongodb = {
      image   = "mongo:8.0"
      port    = 27017
      user    = 999
      path    = "/data/db"
      command = ["mongod", "--replSet", "rs0", "--bind_ip_all", "--setParameter", "enableLocalhostAuthBypass=true"]
    }
  }
}

resource "kubernetes_deployment_v1" "store" {
  for_each = local.stores

  metadata {
    name      = each.key
    namespace = module.weir.namespace
  }

  spec {
    replicas = 1
    selector {
      match_labels = { app = each.key }
    }
    template {
      metadata {
        labels = { app = each.key }
      }
      spec {
        enable_service_links            = false
        automount_service_account_token = false
        security_context {
          run_as_non_root = true
          run_as_user     = each.value.user
          fs_group        = each.value.user
          seccomp_profile {
            type = "RuntimeDefault"
          }
        }
        container {
          name    = each.key
          image   = each.value.image
          command = each.value.command
          port {
            container_port = each.value.port
          }
          security_context {
            run_as_non_root            = true
            allow_privilege_escalation = false
            capabilities {
              drop = ["ALL"]
            }
          }
          volume_mount {
            name       = "data"
            mount_path = each.value.path
          }
          # Initiates the replica set of one member.
          dynamic "lifecycle" {
            for_each = each.key == "mongodb" ? [1] : []
            content {
              post_start {
                exec {
                  command = ["sh", "-c", "until mongosh --quiet --eval 'try { rs.status() } catch (e) { rs.initiate({ _id: \"rs0\", members: [{ _id: 0, host: \"mongodb:27017\" }] }) }'; do sleep 1; done"]
                }
              }
            }
          }
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

resource "kubernetes_service_v1" "store" {
  for_each = local.stores

  metadata {
    name      = each.key
    namespace = module.weir.namespace
  }

  spec {
    selector = { app = each.key }
    port {
      port = each.value.port
    }
  }
}

module "weir" {
  source = "../.."

  namespace    = local.namespace
  image_tag    = var.image_tag
  redis_url    = "redis://redis:6379"
  database_url = "mongodb://mongodb:27017/?replicaSet=rs0"
  peppers      = var.peppers
  autoscaling  = { enabled = false }

  create_namespace = false
  tls_secret       = "weir-tls"
  fleet_tls_secret = "weir-fleet-tls"

  ingest  = { replicas = 1, storage = "1Gi" }
  flusher = { replicas = 1 }
  api     = { replicas = 1 }
}

output "namespace" {
  description = "Namespace of Weir."
  value       = module.weir.namespace
}
