output "namespace" {
  description = "Namespace of everything."
  value       = local.namespace
}

output "mqtt_service" {
  description = "Service for devices, port 1883."
  value       = kubernetes_service_v1.mqtt.metadata[0].name
}

output "grpc_service" {
  description = "Service for third parties, port 50051."
  value       = kubernetes_service_v1.grpc.metadata[0].name
}

output "selector" {
  description = "Labels of every pod; `app.kubernetes.io/component` tells the roles apart."
  value       = local.selector
}

output "secret" {
  description = "Secret that the pods read."
  value       = local.secret
  # Its name, which tells nothing.
}
