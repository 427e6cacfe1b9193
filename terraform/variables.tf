variable "namespace" {
  description = "Namespace of everything. It has to be there, unless `create_namespace` is true."
  type        = string
  default     = "weir"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "namespace: give a DNS label, as \"weir\" (lower-case letters, digits and dashes, 63 at most)."
  }
}

variable "create_namespace" {
  description = "Makes the namespace, held to the `restricted` pod security standard."
  type        = bool
  default     = true
}

variable "name" {
  description = "Begins the name of every object, so that two installations can share a namespace."
  type        = string
  default     = "weir"

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$", var.name))
    error_message = "name: give a DNS label that begins with a letter and has 40 characters at most, as \"weir\"."
  }
}

variable "image" {
  description = "Container image without its tag, as \"registry.example/weir\": the target `weir` of deploy/Dockerfile."
  type        = string
  default     = "weir"

  validation {
    condition     = length(var.image) > 0 && !can(regex("[:@][^/]*$", var.image))
    error_message = "image: give the image without a tag or digest; the tag is `image_tag`."
  }
}

variable "image_tag" {
  description = "Tag of the image. Not `latest`: a restart must not bring another release."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", var.image_tag)) && var.image_tag != "latest"
    error_message = "image_tag: name a release, as \"0.1.0\"; \"latest\" would bring another release with any restart."
  }
}

variable "image_pull_secrets" {
  description = "Names of Secrets with which the image is pulled."
  type        = list(string)
  default     = []
}

variable "existing_secret" {
  description = "Name of a Secret in the namespace with the keys `redis-url`, `database-url`, `fleet-secret`, and `influxdb-token` when InfluxDB is used. Empty: one is made from the variables below."
  type        = string
  default     = ""
}

variable "redis_url" {
  description = "Redis that carries the logs, as redis://user:password@host:6379 or rediss:// for TLS. Not used with `existing_secret`."
  type        = string
  default     = ""
  sensitive   = true

  validation {
    condition     = var.redis_url == "" || can(regex("^rediss?://", var.redis_url))
    error_message = "redis_url: give redis://host:6379, or rediss://host:6379 for TLS."
  }
}

variable "database_url" {
  description = "MongoDB that holds the data, as mongodb://user:password@host/?replicaSet=rs0 or mongodb+srv://. Not used with `existing_secret`."
  type        = string
  default     = ""
  sensitive   = true

  validation {
    condition     = var.database_url == "" || can(regex("^mongodb(\\+srv)?://", var.database_url))
    error_message = "database_url: give MongoDB's connection string, as mongodb://user:password@host/?replicaSet=rs0."
  }
}

variable "fleet_secret" {
  description = "Long random text that the processes know each other by. Not used with `existing_secret`."
  type        = string
  default     = ""
  sensitive   = true

  validation {
    condition     = var.fleet_secret == "" || length(var.fleet_secret) >= 16
    error_message = "fleet_secret: give at least 16 random characters, as from `openssl rand -hex 32`."
  }
}

variable "database_name" {
  description = "MongoDB database."
  type        = string
  default     = "weir"
}

variable "influxdb" {
  description = "InfluxDB 2 that gets points besides: `url`, `org`, `bucket`; the token is the key `influxdb-token` of the Secret. Null: none."
  type = object({
    url    = string
    org    = string
    bucket = string
  })
  default = null

  validation {
    condition     = var.influxdb == null || can(regex("^https?://", var.influxdb.url))
    error_message = "influxdb.url: give http://host:8086 or https://host."
  }
}

variable "influxdb_token" {
  description = "Token that may write to the bucket, and read it. Not used with `existing_secret`."
  type        = string
  default     = ""
  sensitive   = true
}

variable "settings" {
  description = "Further settings of Weir as environment variables, as { WEIR_HISTORY_RETENTION_SECS = \"31536000\" }."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.settings) : can(regex("^WEIR_[A-Z0-9_]+$", name))])
    error_message = "settings: every name begins with WEIR_, as WEIR_LOG_CAPACITY_BYTES; `weir config` lists the keys."
  }
}

variable "ingest" {
  description = "The role that takes devices: `replicas`, most replicas with autoscaling, `storage` and `storage_class` of the volume that takes readings while Redis is away, and `connections` of one pod."
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
    error_message = "ingest: `replicas` is at least 1 and `max_replicas` not below it."
  }
}

variable "flusher" {
  description = "The role that writes to the stores: `replicas`, and most replicas with autoscaling (more than there are ingest pods have nothing to do)."
  type = object({
    replicas     = optional(number, 3)
    max_replicas = optional(number, 10)
  })
  default = {}

  validation {
    condition     = var.flusher.replicas >= 1 && var.flusher.max_replicas >= var.flusher.replicas
    error_message = "flusher: `replicas` is at least 1 and `max_replicas` not below it."
  }
}

variable "api" {
  description = "The role that answers third parties: `replicas`, and most replicas with autoscaling."
  type = object({
    replicas     = optional(number, 3)
    max_replicas = optional(number, 10)
  })
  default = {}

  validation {
    condition     = var.api.replicas >= 1 && var.api.max_replicas >= var.api.replicas
    error_message = "api: `replicas` is at least 1 and `max_replicas` not below it."
  }
}

variable "resources" {
  description = "What each pod asks for and may use."
  type = object({
    requests = optional(object({ cpu = optional(string, "0.2"), memory = optional(string, "256Mi") }), {})
    limits   = optional(object({ cpu = optional(string, "0.5"), memory = optional(string, "512Mi") }), {})
  })
  default = {}
}

variable "autoscaling" {
  description = "Adds pods of a role when they use more than `cpu_percent` of the CPU they ask for; flushers also by `flusher_lag_seconds`, the average of the external metric `weir_flusher_lag_seconds`, where a metrics adapter provides it (null: not)."
  type = object({
    enabled             = optional(bool, true)
    cpu_percent         = optional(number, 70)
    flusher_lag_seconds = optional(number)
  })
  default = {}

  validation {
    condition     = var.autoscaling.cpu_percent >= 10 && var.autoscaling.cpu_percent <= 100
    error_message = "autoscaling.cpu_percent: give 10 to 100."
  }
}

variable "termination_grace_seconds" {
  description = "How long a pod has to hand its devices over and to flush once more. 50,000 connections need 180 seconds."
  type        = number
  default     = 180

  validation {
    condition     = var.termination_grace_seconds >= 30
    error_message = "termination_grace_seconds: give at least 30; what is not flushed by then is flushed by another pod."
  }
}

variable "mqtt_service" {
  description = "How devices reach the ingest pods: `type` ClusterIP, NodePort or LoadBalancer, and `annotations` for the cloud's load balancer."
  type = object({
    type        = optional(string, "ClusterIP")
    annotations = optional(map(string), {})
  })
  default = {}

  validation {
    condition     = contains(["ClusterIP", "NodePort", "LoadBalancer"], var.mqtt_service.type)
    error_message = "mqtt_service.type: give ClusterIP, NodePort or LoadBalancer."
  }
}

variable "network" {
  description = "Who may reach what: CIDRs of `devices` (MQTT) and `clients` (gRPC), namespaces that `monitor` (metrics), CIDRs and ports of the `stores`."
  type = object({
    devices     = optional(list(string), ["0.0.0.0/0"])
    clients     = optional(list(string), ["0.0.0.0/0"])
    monitor     = optional(list(string), ["monitoring"])
    stores      = optional(list(string), ["0.0.0.0/0"])
    store_ports = optional(list(number), [6379, 27017, 8086, 4317, 4318])
  })
  default = {}

  validation {
    condition     = alltrue([for cidr in concat(var.network.devices, var.network.clients, var.network.stores) : can(cidrhost(cidr, 0))])
    error_message = "network: give CIDRs, as \"10.0.0.0/8\"."
  }
}

variable "labels" {
  description = "Further labels of every object."
  type        = map(string)
  default     = {}
}
