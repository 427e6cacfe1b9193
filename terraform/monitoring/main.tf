# A separate module, because the cluster has to know the kind before a plan is made.
terraform {
  required_version = ">= 1.9"

  required_providers {
    kubernetes = {
      source  = "hashicorp/kubernetes"
      version = ">= 3.0.0, < 4.0.0"
    }
  }
}

variable "namespace" {
  description = "Namespace of Weir: the output `namespace` of the main module."
  type        = string
}

variable "name" {
  description = "Name of the installation, as in the main module."
  type        = string
  default     = "weir"
}

variable "selector" {
  description = "Labels of Weir's pods: the output `selector` of the main module."
  type        = map(string)
}

variable "labels" {
  description = "Labels by which Prometheus finds the monitor, for example { release = \"prometheus\" }."
  type        = map(string)
  default     = {}
}

variable "interval" {
  description = "Scrape interval."
  type        = string
  default     = "15s"

  validation {
    condition     = can(regex("^[0-9]+(ms|s|m)$", var.interval))
    error_message = "interval: use a duration such as \"15s\"."
  }
}

variable "insecure" {
  description = "As in the main module."
  type        = bool
  default     = false
}

variable "tls" {
  description = "Check of Weir's certificate, whose names are not those of pods: `server_name`, one of its names, and `ca_secret`, a Secret with its authority as `ca.crt`. Null: the metrics are encrypted, and the certificate is not checked."
  type = object({
    server_name = string
    ca_secret   = string
  })
  default = null
}

locals {
  endpoint = { port = "http", path = "/metrics", interval = var.interval }
  check = var.tls == null ? { insecureSkipVerify = true, serverName = null, ca = null } : {
    insecureSkipVerify = false
    serverName         = var.tls.server_name
    ca                 = { secret = { name = var.tls.ca_secret, key = "ca.crt" } }
  }
  encrypted = {
    scheme    = "https"
    tlsConfig = { for key, value in local.check : key => value if value != null }
  }
}

resource "kubernetes_manifest" "monitor" {
  manifest = {
    apiVersion = "monitoring.coreos.com/v1"
    kind       = "PodMonitor"
    metadata = {
      name      = var.name
      namespace = var.namespace
      labels    = var.labels
    }
    spec = {
      selector            = { matchLabels = var.selector }
      podMetricsEndpoints = [merge(local.endpoint, var.insecure ? {} : local.encrypted)]
      podTargetLabels     = ["app.kubernetes.io/component"]
    }
  }
}

output "monitor" {
  description = "Name of the PodMonitor."
  value       = kubernetes_manifest.monitor.manifest.metadata.name
}
