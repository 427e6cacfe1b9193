variable "common" {
  description = "What all roles have in common."
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
  })
}

variable "role" {
  description = "What the pods do: ingest, flusher or api."
  type        = string

  validation {
    condition     = contains(["ingest", "flusher", "api"], var.role)
    error_message = "role: give ingest, flusher or api."
  }
}

variable "replicas" {
  description = "Pods; null leaves it to an autoscaler."
  type        = number
  default     = null
}

variable "ports" {
  description = "Ports by name."
  type        = map(number)
}

variable "storage" {
  description = "Volume that outlives a pod: the pods are then those of a StatefulSet. Null: a Deployment."
  type = object({
    size  = string
    class = optional(string)
  })
  default = null
}
