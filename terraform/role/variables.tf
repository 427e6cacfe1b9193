variable "common" {
  description = "Settings shared by all roles."
  type = object({
    name               = string
    namespace          = string
    labels             = map(string)
    selector           = map(string)
    image              = string
    image_pull_secrets = list(string)
    service_account    = string
    settings           = map(string)
    secret             = string
    secrets            = map(string)
    resources = object({
      requests = object({ cpu = string, memory = string })
      limits   = object({ cpu = string, memory = string })
    })
    grace_seconds = number
    folder        = string
    files         = map(object({ secret = string, items = list(string) }))
    scheme        = string
  })
}

variable "role" {
  description = "Role of the pods: ingest, flusher or api."
  type        = string

  validation {
    condition     = contains(["ingest", "flusher", "api"], var.role)
    error_message = "role: use ingest, flusher or api."
  }
}

variable "replicas" {
  description = "Number of pods; null leaves it to an autoscaler."
  type        = number
  default     = null
}

variable "ports" {
  description = "Ports by name."
  type        = map(number)
}

variable "named" {
  description = "Pods have names that stay, which makes them a StatefulSet also without `storage`."
  type        = bool
  default     = false
}

variable "storage" {
  description = "Persistent volume of a pod, which makes the pods a StatefulSet. Null: a Deployment."
  type = object({
    size  = string
    class = optional(string)
  })
  default = null
}
