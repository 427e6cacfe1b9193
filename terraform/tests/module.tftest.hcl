mock_provider "kubernetes" {}

variables {
  image_tag    = "0.1.0"
  redis_url    = "redis://redis:6379"
  database_url = "mongodb://mongo/?replicaSet=rs0"
  peppers      = "1 0000000000000000000000000000000000000000000000000000000000000000"

  tls_secret       = "weir-tls"
  fleet_tls_secret = "weir-fleet-tls"
}

run "defaults_are_those_of_the_case_study" {
  command = plan

  assert {
    condition = alltrue([
      for scaler in values(kubernetes_horizontal_pod_autoscaler_v2.this) :
      scaler.spec[0].min_replicas == 3 && scaler.spec[0].metric[0].resource[0].target[0].average_utilization == 70
    ])
    error_message = "three replicas, and more above 70 % of the CPU"
  }

  assert {
    condition     = local.replicas == { ingest = 3, flusher = 3, api = 3 }
    error_message = "three pods of each role from the start, not one until an autoscaler acts"
  }

  assert {
    condition     = length(kubernetes_horizontal_pod_autoscaler_v2.this["flusher"].spec[0].metric) == 1
    error_message = "the lag is used only when it is configured"
  }

  assert {
    condition     = output.mqtt_service == "weir-mqtt" && output.grpc_service == "weir-grpc" && output.namespace == "weir"
    error_message = "outputs name the created objects"
  }
}

run "flushers_follow_their_lag_where_an_adapter_tells_it" {
  command = plan

  variables {
    autoscaling = { flusher_lag_seconds = 30 }
  }

  assert {
    condition     = kubernetes_horizontal_pod_autoscaler_v2.this["flusher"].spec[0].metric[1].external[0].target[0].average_value == "30"
    error_message = "the lag is a metric of the flushers"
  }
}

run "a_secret_that_is_there_is_taken" {
  command = plan

  variables {
    existing_secret = "stores"
    redis_url       = ""
    database_url    = ""
    peppers         = ""
  }

  assert {
    condition     = length(kubernetes_secret_v1.this) == 0 && output.secret == "stores"
    error_message = "no Secret is created"
  }
}

run "without_autoscaling_the_replicas_are_said" {
  command = plan

  variables {
    autoscaling = { enabled = false }
  }

  assert {
    condition     = length(kubernetes_horizontal_pod_autoscaler_v2.this) == 0
    error_message = "no autoscaler"
  }

  assert {
    condition     = local.replicas == { ingest = 3, flusher = 3, api = 3 }
    error_message = "the configured replicas"
  }
}

run "an_apply_keeps_what_the_autoscaler_did_within_its_limits" {
  command = plan

  override_data {
    target = data.kubernetes_resources.workloads["ingest"]
    values = { objects = [{ spec = { replicas = 7 } }] }
  }

  override_data {
    target = data.kubernetes_resources.workloads["flusher"]
    values = { objects = [{ spec = { replicas = 70 } }] }
  }

  assert {
    condition     = local.replicas == { ingest = 7, flusher = 10, api = 3 }
    error_message = "the autoscaler's number, between the least and the most"
  }
}

run "a_tag_that_moves_is_refused" {
  command = plan

  variables {
    image_tag = "latest"
  }

  expect_failures = [var.image_tag]
}

run "a_wrong_connection_string_is_refused" {
  command = plan

  variables {
    database_url = "postgres://db"
  }

  expect_failures = [var.database_url]
}

run "a_short_secret_is_refused" {
  command = plan

  variables {
    insecure     = true
    fleet_secret = "short"
  }

  expect_failures = [var.fleet_secret]
}

run "missing_urls_are_asked_for" {
  command = plan

  variables {
    database_url = ""
  }

  expect_failures = [kubernetes_secret_v1.this]
}

run "a_setting_that_is_none_of_weirs_is_refused" {
  command = plan

  variables {
    settings = { RUST_LOG = "debug" }
  }

  expect_failures = [var.settings]
}

run "more_than_at_most_is_refused" {
  command = plan

  variables {
    ingest = { replicas = 5, max_replicas = 3 }
  }

  expect_failures = [var.ingest]
}

run "what_is_no_network_is_refused" {
  command = plan

  variables {
    network = { stores = ["everywhere"] }
  }

  expect_failures = [var.network]
}

run "devices_and_clients_need_tls_and_authentication" {
  command = plan

  assert {
    condition = (
      local.settings.WEIR_AUTH_REQUIRED == "true" && local.settings.WEIR_AUTH_REGISTRY == "mongodb" &&
      local.settings.WEIR_MQTT_ADDRESS == "127.0.0.1:1883" && !contains(keys(local.settings), "WEIR_INSECURE")
    )
    error_message = "authentication is on, and the port without TLS is on loopback"
  }

  assert {
    condition     = kubernetes_service_v1.mqtt.spec[0].port[0].port == 8883 && kubernetes_service_v1.grpc.spec[0].port[0].port == 443
    error_message = "the usual ports of TLS"
  }

  assert {
    condition     = local.settings.WEIR_FLEET_ADVERTISE == "$(POD_NAME).$(POD_SERVICE).weir.svc:50052"
    error_message = "pods are called by a name that their certificate has"
  }

  assert {
    condition     = kubernetes_horizontal_pod_autoscaler_v2.this["flusher"].spec[0].scale_target_ref[0].kind == "StatefulSet"
    error_message = "the autoscaler finds the flushers"
  }
}

run "a_trusted_network_does_without" {
  command = plan

  variables {
    insecure         = true
    fleet_secret     = "a long random text"
    peppers          = ""
    tls_secret       = ""
    fleet_tls_secret = ""
  }

  assert {
    condition     = local.settings.WEIR_INSECURE == "true" && length(local.files) == 0 && local.secrets.WEIR_FLEET_SECRET == "fleet-secret"
    error_message = "no certificates, and the secret of the fleet"
  }

  assert {
    condition     = kubernetes_service_v1.mqtt.spec[0].port[0].port == 1883 && kubernetes_network_policy_v1.in["ingest"].spec[0].ingress[0].ports[0].port == "1883"
    error_message = "the port without TLS"
  }
}

run "missing_certificates_are_asked_for" {
  command = plan

  variables {
    fleet_tls_secret = ""
  }

  expect_failures = [terraform_data.certificates]
}

run "missing_peppers_are_asked_for" {
  command = plan

  variables {
    peppers = ""
  }

  expect_failures = [kubernetes_secret_v1.this]
}

run "peppers_of_another_form_are_refused" {
  command = plan

  variables {
    peppers = "secret"
  }

  expect_failures = [var.peppers]
}

run "a_registry_in_postgresql_needs_its_address" {
  command = plan

  variables {
    registry = "postgresql"
  }

  expect_failures = [kubernetes_secret_v1.this]
}

run "the_address_of_a_registry_stays_in_the_secret" {
  command = plan

  variables {
    registry     = "postgresql"
    registry_url = "postgresql://weir:secret@db/weir"
  }

  assert {
    condition     = local.secrets.WEIR_AUTH_REGISTRY == "registry-url" && !contains(keys(local.settings), "WEIR_AUTH_REGISTRY")
    error_message = "a reference to the Secret"
  }
}

run "clients_reach_the_api_by_an_ingress_and_devices_present_certificates" {
  command = plan

  variables {
    grpc_ingress = { host = "weir.example.com" }
    client_ca    = "-----BEGIN CERTIFICATE-----"
  }

  assert {
    condition     = kubernetes_ingress_v1.grpc[0].metadata[0].annotations["nginx.ingress.kubernetes.io/backend-protocol"] == "GRPCS"
    error_message = "the controller calls Weir over TLS"
  }

  assert {
    condition     = local.settings.WEIR_TLS_CLIENT_CA == "/etc/weir/client-ca/ca.crt" && contains(keys(local.files), "client-ca")
    error_message = "the authorities of devices are mounted"
  }
}
