# Weir with managed stores, the registry in PostgreSQL, and certificates from cert-manager.
# Passwords come from an existing Secret:
#   kubectl create namespace weir
#   kubectl -n weir create secret generic weir-stores \
#     --from-literal=redis-url=… --from-literal=database-url=… --from-literal=registry-url=… \
#     --from-literal=peppers="1 $(openssl rand -hex 32)" --from-literal=influxdb-token=…
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

variable "host" {
  description = "Name of Weir for devices (MQTT) and clients (gRPC)."
  type        = string
  default     = "weir.example.com"
}

module "certificates" {
  source = "../../certificates"

  issuer    = { name = "letsencrypt" }
  dns_names = [var.host]
}

module "weir" {
  source = "../.."

  image            = var.image
  image_tag        = var.image_tag
  create_namespace = false
  existing_secret  = "weir-stores"
  influxdb         = { url = "https://influxdb.example", org = "weir", bucket = "telemetry" }
  tls_secret       = module.certificates.tls_secret
  fleet_tls_secret = module.certificates.fleet_tls_secret
  registry         = "postgresql"
  mqtt_service     = { type = "LoadBalancer" }
  grpc_ingress     = { host = var.host, class = "nginx", tls_secret = module.certificates.tls_secret }
  network          = { stores = ["10.0.0.0/8"], store_ports = [6379, 27017, 5432, 443] }
}

output "mqtt_service" {
  description = "Service for devices."
  value       = module.weir.mqtt_service
}
