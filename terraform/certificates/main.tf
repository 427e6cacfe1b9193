# A separate module, because the cluster has to know the kinds of cert-manager before a plan is
# made.
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
  description = "Namespace of Weir. It must exist."
  type        = string
  default     = "weir"
}

variable "name" {
  description = "Name of the installation, as in the main module."
  type        = string
  default     = "weir"
}

variable "issuer" {
  description = "Issuer of cert-manager for the certificate that devices and clients see: its `name` and `kind`."
  type = object({
    name = string
    kind = optional(string, "ClusterIssuer")
  })
}

variable "dns_names" {
  description = "Names by which devices and clients reach Weir, for example [\"mqtt.example.com\", \"weir.example.com\"]."
  type        = list(string)

  validation {
    condition     = length(var.dns_names) > 0
    error_message = "dns_names: use at least one name."
  }
}

locals {
  pods = [for role in ["ingest", "flusher"] : "*.${var.name}-${role}-pods.${var.namespace}.svc"]
  key  = { algorithm = "ECDSA", size = 256, rotationPolicy = "Always" }
}

# The certificate of the ports. Weir reads a renewed one within half a minute.
resource "kubernetes_manifest" "ports" {
  manifest = {
    apiVersion = "cert-manager.io/v1"
    kind       = "Certificate"
    metadata   = { name = "${var.name}-tls", namespace = var.namespace }
    spec = {
      secretName = "${var.name}-tls"
      dnsNames   = var.dns_names
      privateKey = local.key
      issuerRef  = { name = var.issuer.name, kind = var.issuer.kind }
    }
  }
}

# The authority of the fleet, which signs nothing else: a certificate from it is a process of Weir.
resource "kubernetes_manifest" "self_signed" {
  manifest = {
    apiVersion = "cert-manager.io/v1"
    kind       = "Issuer"
    metadata   = { name = "${var.name}-fleet-root", namespace = var.namespace }
    spec       = { selfSigned = {} }
  }
}

resource "kubernetes_manifest" "authority" {
  manifest = {
    apiVersion = "cert-manager.io/v1"
    kind       = "Certificate"
    metadata   = { name = "${var.name}-fleet-ca", namespace = var.namespace }
    spec = {
      secretName = "${var.name}-fleet-ca"
      commonName = "${var.name} fleet"
      isCA       = true
      duration   = "87600h0m0s"
      # A new key would keep processes with old certificates apart from those with new ones.
      privateKey = { algorithm = "ECDSA", size = 256, rotationPolicy = "Never" }
      issuerRef  = { name = "${var.name}-fleet-root", kind = "Issuer" }
    }
  }

  depends_on = [kubernetes_manifest.self_signed]
}

resource "kubernetes_manifest" "fleet_issuer" {
  manifest = {
    apiVersion = "cert-manager.io/v1"
    kind       = "Issuer"
    metadata   = { name = "${var.name}-fleet", namespace = var.namespace }
    spec       = { ca = { secretName = "${var.name}-fleet-ca" } }
  }

  depends_on = [kubernetes_manifest.authority]
}

resource "kubernetes_manifest" "fleet" {
  manifest = {
    apiVersion = "cert-manager.io/v1"
    kind       = "Certificate"
    metadata   = { name = "${var.name}-fleet-tls", namespace = var.namespace }
    spec = {
      secretName = "${var.name}-fleet-tls"
      dnsNames   = local.pods
      usages     = ["digital signature", "server auth", "client auth"]
      privateKey = local.key
      issuerRef  = { name = "${var.name}-fleet", kind = "Issuer" }
    }
  }

  depends_on = [kubernetes_manifest.fleet_issuer]
}

output "tls_secret" {
  description = "For the variable of the same name of the main module."
  value       = "${var.name}-tls"

  depends_on = [kubernetes_manifest.ports]
}

output "fleet_tls_secret" {
  description = "For the variable of the same name of the main module."
  value       = "${var.name}-fleet-tls"

  depends_on = [kubernetes_manifest.fleet]
}
