variable "namespace" {
  description = "Namespace of all objects. It must exist unless `create_namespace` is true."
  type        = string
  default     = "weir"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "namespace: use a DNS label such as \"weir\" (at most 63 lower-case letters, digits and dashes)."
  }
}

variable "create_namespace" {
  description = "Creates the namespace with the pod security standard `restricted`."
  type        = bool
  default     = true
}

variable "name" {
  description = "Prefix of the names of all objects, so that two installations can share a namespace."
  type        = string
  default     = "weir"

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$", var.name))
    error_message = "name: use a DNS label of at most 40 characters that begins with a letter, such as \"weir\"."
  }
}

variable "image" {
  description = "Container image without its tag, for example \"registry.example/weir\": the target `weir` of deploy/Dockerfile."
  type        = string
  default     = "weir"

  validation {
    condition     = length(var.image) > 0 && !can(regex("[:@][^/]*$", var.image))
    error_message = "image: use the image without a tag or digest; the tag is `image_tag`."
  }
}

variable "image_tag" {
  description = "Tag of the image. Not `latest`: a restart must not change the release."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", var.image_tag)) && var.image_tag != "latest"
    error_message = "image_tag: use a release such as \"0.1.0\"; with \"latest\" a restart could change the release."
  }
}

variable "image_pull_secrets" {
  description = "Names of Secrets for pulling the image."
  type        = list(string)
  default     = []
}

variable "existing_secret" {
  description = "Name of a Secret in the namespace with the keys `redis-url`, `database-url`, `peppers`, `registry-url` with `registry = \"postgresql\"`, `fleet-secret` with `insecure`, and `influxdb-token` if InfluxDB is used. Empty: a Secret is created from the variables below."
  type        = string
  default     = ""
}

variable "redis_url" {
  description = "Redis for the logs: redis://user:password@host:6379, or rediss:// for TLS. Not used with `existing_secret`."
  type        = string
  default     = ""
  sensitive   = true

  validation {
    condition     = var.redis_url == "" || can(regex("^rediss?://", var.redis_url))
    error_message = "redis_url: use redis://host:6379, or rediss://host:6379 for TLS."
  }
}

variable "database_url" {
  description = "MongoDB for the data: mongodb://user:password@host/?replicaSet=rs0 or mongodb+srv://. Not used with `existing_secret`."
  type        = string
  default     = ""
  sensitive   = true

  validation {
    condition     = var.database_url == "" || can(regex("^mongodb(\\+srv)?://", var.database_url))
    error_message = "database_url: use a connection string of MongoDB such as mongodb://user:password@host/?replicaSet=rs0."
  }
}

variable "fleet_secret" {
  description = "With `insecure` only: long random text that authenticates the processes to each other. Not used with `existing_secret`."
  type        = string
  default     = ""
  sensitive   = true

  validation {
    condition     = var.fleet_secret == "" || length(var.fleet_secret) >= 16
    error_message = "fleet_secret: use at least 16 random characters, for example from `openssl rand -hex 32`."
  }
}

variable "insecure" {
  description = "Without TLS, and every client may do everything: for a trusted network, in place of the variables about certificates, the registry and peppers."
  type        = bool
  default     = false
}

variable "tls_secret" {
  description = "Name of a Secret of the type `kubernetes.io/tls` with the certificate of the ports for devices and clients; cert-manager makes such, and so does [certificates](certificates)."
  type        = string
  default     = ""
}

variable "fleet_tls_secret" {
  description = "Name of a Secret with `tls.crt`, `tls.key` and `ca.crt`, from an authority of its own, by which the processes know each other. The certificate is for `*.{name}-ingest-pods.{namespace}.svc` and `*.{name}-flusher-pods.{namespace}.svc`, for servers and clients."
  type        = string
  default     = ""
}

variable "client_ca" {
  description = "PEM text of the authorities of device certificates; another one ends the handshake. Empty: the registry decides."
  type        = string
  default     = ""

  validation {
    condition     = var.client_ca == "" || strcontains(var.client_ca, "-----BEGIN CERTIFICATE-----")
    error_message = "client_ca: use the text of a PEM file, for example file(\"plant-ca.pem\")."
  }
}

variable "registry" {
  description = "Where tenants, credentials and the audit are: `mongodb`, the database of the data, or `postgresql`, with its address in `registry_url`."
  type        = string
  default     = "mongodb"

  validation {
    condition     = contains(["mongodb", "postgresql"], var.registry)
    error_message = "registry: use \"mongodb\" or \"postgresql\"."
  }
}

variable "registry_url" {
  description = "PostgreSQL of the registry: postgresql://user:password@host/weir?sslmode=verify-full. Not used with `existing_secret`."
  type        = string
  default     = ""
  sensitive   = true

  validation {
    condition     = var.registry_url == "" || can(regex("^postgres(ql)?://", var.registry_url))
    error_message = "registry_url: use postgresql://user:password@host/weir."
  }
}

variable "peppers" {
  description = "The peppers of the registry, a line `1 KEY` with 64 random hexadecimal digits. Without them no secret is valid: keep a copy. Not used with `existing_secret`."
  type        = string
  default     = ""
  sensitive   = true

  validation {
    condition     = var.peppers == "" || can(regex("^[0-9]+ [0-9a-f]{64}", var.peppers))
    error_message = "peppers: use \"1 KEY\", for example \"1 $(openssl rand -hex 32)\"."
  }
}

variable "database_name" {
  description = "MongoDB database."
  type        = string
  default     = "weir"
}

variable "influxdb" {
  description = "Export to InfluxDB 2: `url`, `org`, `bucket`; the token is the key `influxdb-token` of the Secret. Null: none."
  type = object({
    url    = string
    org    = string
    bucket = string
  })
  default = null

  validation {
    condition     = var.influxdb == null || can(regex("^https?://", var.influxdb.url))
    error_message = "influxdb.url: use http://host:8086 or https://host."
  }
}

variable "influxdb_token" {
  description = "Token with read and write access to the bucket. Not used with `existing_secret`."
  type        = string
  default     = ""
  sensitive   = true
}

variable "settings" {
  description = "Additional settings of Weir as environment variables, for example { WEIR_HISTORY_RETENTION_SECS = \"31536000\" }."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.settings) : can(regex("^WEIR_[A-Z0-9_]+$", name))])
    error_message = "settings: every name begins with WEIR_, for example WEIR_LOG_CAPACITY_BYTES; `weir config` lists the keys."
  }
}

variable "ingest" {
  description = "The role for devices: `replicas`, maximum replicas with autoscaling, `storage` and `storage_class` of the volume that holds readings while Redis is unavailable, and `connections` of one pod."
  type = object({
    replicas      = optional(number, 3)
    max_replicas  = optional(number, 10)
    storage       = optional(string, "8Gi")
    storage_class = optional(string)
    connections   = optional(number, 50000)
  })
  default = {}

  validation {
    condition     = var.ingest.replicas >= 1 && var.ingest.max_replicas >= var.ingest.replicas
    error_message = "ingest: `replicas` must be at least 1 and not above `max_replicas`."
  }
}

variable "flusher" {
  description = "The role that writes to the stores: `replicas`, and maximum replicas with autoscaling (not more than ingest pods are useful)."
  type = object({
    replicas     = optional(number, 3)
    max_replicas = optional(number, 10)
  })
  default = {}

  validation {
    condition     = var.flusher.replicas >= 1 && var.flusher.max_replicas >= var.flusher.replicas
    error_message = "flusher: `replicas` must be at least 1 and not above `max_replicas`."
  }
}

variable "api" {
  description = "The role for gRPC clients: `replicas`, and maximum replicas with autoscaling."
  type = object({
    replicas     = optional(number, 3)
    max_replicas = optional(number, 10)
  })
  default = {}

  validation {
    condition     = var.api.replicas >= 1 && var.api.max_replicas >= var.api.replicas
    error_message = "api: `replicas` must be at least 1 and not above `max_replicas`."
  }
}

variable "resources" {
  description = "Requests and limits of each pod."
  type = object({
    requests = optional(object({ cpu = optional(string, "0.2"), memory = optional(string, "256Mi") }), {})
    limits   = optional(object({ cpu = optional(string, "0.5"), memory = optional(string, "512Mi") }), {})
  })
  default = {}
}

variable "autoscaling" {
  description = "Adds pods to a role when they use more than `cpu_percent` of their requested CPU; flushers also by `flusher_lag_seconds`, the average of the external metric `weir_flusher_lag_seconds`, if a metrics adapter provides it (null: not used)."
  type = object({
    enabled             = optional(bool, true)
    cpu_percent         = optional(number, 70)
    flusher_lag_seconds = optional(number)
  })
  default = {}

  validation {
    condition     = var.autoscaling.cpu_percent >= 10 && var.autoscaling.cpu_percent <= 100
    error_message = "autoscaling.cpu_percent: use 10 to 100."
  }
}

variable "termination_grace_seconds" {
  description = "Time for a pod to move its connections to others, a third of it, and for the last flush. 50,000 connections need 180 seconds."
  type        = number
  default     = 180

  validation {
    condition     = var.termination_grace_seconds >= 30
    error_message = "termination_grace_seconds: use at least 30; another pod flushes what remains."
  }
}

variable "mqtt_service" {
  description = "Service of the ingest pods for devices: `type` ClusterIP, NodePort or LoadBalancer, and `annotations` for the cloud's load balancer, which passes TLS on. `preserve_addresses` keeps the addresses of devices (externalTrafficPolicy Local) with the latter two."
  type = object({
    type               = optional(string, "ClusterIP")
    annotations        = optional(map(string), {})
    preserve_addresses = optional(bool, true)
  })
  default = {}

  validation {
    condition     = contains(["ClusterIP", "NodePort", "LoadBalancer"], var.mqtt_service.type)
    error_message = "mqtt_service.type: use ClusterIP, NodePort or LoadBalancer."
  }
}

variable "grpc_ingress" {
  description = "Ingress for gRPC clients at port 443: `host`, `class`, `tls_secret` with the certificate of the host (empty: that of the controller), and `annotations`, by default those with which ingress-nginx calls Weir. Null: none."
  type = object({
    host        = string
    class       = optional(string)
    tls_secret  = optional(string, "")
    annotations = optional(map(string))
  })
  default = null
}

variable "network" {
  description = "Allowed connections: CIDRs of `devices` (MQTT) and `clients` (gRPC), namespaces that `monitor` (metrics), CIDRs and ports of the `stores`."
  type = object({
    devices     = optional(list(string), ["0.0.0.0/0"])
    clients     = optional(list(string), ["0.0.0.0/0"])
    monitor     = optional(list(string), ["monitoring"])
    stores      = optional(list(string), ["0.0.0.0/0"])
    store_ports = optional(list(number), [6379, 27017, 5432, 8086, 4317, 4318])
  })
  default = {}

  validation {
    condition     = alltrue([for cidr in concat(var.network.devices, var.network.clients, var.network.stores) : can(cidrhost(cidr, 0))])
    error_message = "network: use CIDRs such as \"10.0.0.0/8\"."
  }
}

variable "labels" {
  description = "Additional labels of all objects."
  type        = map(string)
  default     = {}
}
