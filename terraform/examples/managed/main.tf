# Weir with managed stores. Passwords come from an existing Secret:
#   kubectl create namespace weir
#   kubectl -n weir create secret generic weir-stores \
#     --from-literal=redis-url=… --from-literal=database-url=… \
#     --from-literal=fleet-secret="$(openssl rand -hex 32)" --from-literal=influxdb-token=…
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

variable "image" {
  description = "Image without its tag."
  type        = string
}

variable "image_tag" {
  description = "Release of Weir."
  type        = string
  default     = "0.1.0"
}

module "weir" {
  source = "../.."

  image            = var.image
  image_tag        = var.image_tag
  create_namespace = false
  existing_secret  = "weir-stores"
  influxdb         = { url = "https://influxdb.example", org = "weir", bucket = "telemetry" }
  mqtt_service     = { type = "LoadBalancer" }
  network          = { stores = ["10.0.0.0/8"], store_ports = [6379, 27017, 443] }
}

output "mqtt_service" {
  description = "Service for devices."
  value       = module.weir.mqtt_service
}
