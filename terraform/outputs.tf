output "namespace" {
  description = "Namespace of all objects."
  value       = local.namespace
}

output "mqtt_service" {
  description = "Service for devices, port 8883; 1883 with `insecure`."
  value       = kubernetes_service_v1.mqtt.metadata[0].name
}

output "grpc_service" {
  description = "Service for gRPC clients, port 443; 50051 with `insecure`."
  value       = kubernetes_service_v1.grpc.metadata[0].name
}

output "selector" {
  description = "Labels of every pod; `app.kubernetes.io/component` is the role."
  value       = local.selector
}

output "secret" {
  description = "Secret of the pods."
  value       = local.secret
  # The name is not sensitive.
}
