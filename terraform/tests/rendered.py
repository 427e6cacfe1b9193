"""Applies a module with the real provider to an API server that only remembers (REMEMBERING_API), and looks at what it was sent.

usage: rendered.py FOLDER [--expect-fault TEXT] [NAME=VALUE ...]

Every object is checked against the schema of its kind (kubernetes-validate), and every pod against the pod security standard
`restricted`. With --expect-fault the check has to find one that says TEXT.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import kubernetes_validate

VERSION = "1.33"


def restricted(pod, where):
    """What the standard asks for, as far as a pod can break it (Kubernetes documentation, Pod Security Standards)."""
    faults = []
    own = pod.get("securityContext", {})
    if pod.get("hostNetwork") or pod.get("hostPID") or pod.get("hostIPC"):
        faults.append(f"{where}: a namespace of the host")
    for volume in pod.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}:
            faults.append(f"{where}: volume {volume['name']} is {kinds}")
    for container in pod.get("containers", []) + pod.get("initContainers", []):
        context, name = container.get("securityContext", {}), f"{where}, container {container['name']}"
        if context.get("runAsNonRoot", own.get("runAsNonRoot")) is not True:
            faults.append(f"{name}: runAsNonRoot is not true")
        if context.get("runAsUser", own.get("runAsUser")) == 0:
            faults.append(f"{name}: runs as root")
        if context.get("privileged"):
            faults.append(f"{name}: privileged")
        if context.get("allowPrivilegeEscalation") is not False:
            faults.append(f"{name}: allowPrivilegeEscalation is not false")
        if "ALL" not in context.get("capabilities", {}).get("drop", []):
            faults.append(f"{name}: does not drop ALL capabilities")
        if set(context.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
            faults.append(f"{name}: adds capabilities")
        profile = context.get("seccompProfile", own.get("seccompProfile", {})).get("type")
        if profile not in ("RuntimeDefault", "Localhost"):
            faults.append(f"{name}: seccompProfile is {profile}")
        if any(port.get("hostPort") for port in container.get("ports", [])):
            faults.append(f"{name}: a port of the host")
    return faults


def weir(kind, pod, where):
    """What Weir's own pods have besides."""
    faults, container = [], pod["containers"][0]
    asked = container["resources"]
    if asked != {"limits": {"cpu": "500m", "memory": "512Mi"}, "requests": {"cpu": "200m", "memory": "256Mi"}}:
        faults.append(f"{where}: resources are {asked}")
    live, ready = container["livenessProbe"]["httpGet"], container["readinessProbe"]["httpGet"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    if live["path"] != "/health" or ready["path"] != "/health/ready" or ports[live["port"]] != 8080:
        faults.append(f"{where}: probes are {live}, {ready}")
    values = {entry["name"]: entry.get("value") for entry in container["env"]}
    insecure = values.get("WEIR_INSECURE") == "true"
    if {live["scheme"], ready["scheme"]} != {"HTTP" if insecure else "HTTPS"}:
        faults.append(f"{where}: probes are {live}, {ready}")
    if not insecure and (values.get("WEIR_AUTH_REQUIRED") != "true" or not values.get("WEIR_TLS_CERTIFICATE")):
        faults.append(f"{where}: authentication and TLS are not on")
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    for name, value in values.items():
        if value and value.startswith("/etc/weir/") and os.path.dirname(value) not in mounts:
            faults.append(f"{where}: {name} is {value}, which is not mounted")
    for volume in pod["volumes"]:
        if "secret" in volume and volume["secret"].get("defaultMode") != 0o440:
            faults.append(f"{where}: the files of {volume['name']} have the mode {volume['secret'].get('defaultMode')}")
    if not container["securityContext"].get("readOnlyRootFilesystem"):
        faults.append(f"{where}: the root file system can be written")
    if pod.get("terminationGracePeriodSeconds") != 180 or pod.get("enableServiceLinks") is not False:
        faults.append(f"{where}: grace or service links")
    secret = [entry for entry in container["env"] if "URI" in entry["name"] and "valueFrom" not in entry
              or "://" in (entry.get("value") or "") and "@" in entry["value"]]
    if secret:
        faults.append(f"{where}: a connection string stands in the pod")
    known = set(os.environ.get("WEIR_KEYS", "").split())
    if known:
        names = {entry["name"] for entry in container["env"] if entry["name"].startswith("WEIR_")}
        faults.extend(f"{where}: {name} is no key of Weir" for name in sorted(names - known))
    return faults


def shape(pod):
    """A pod of Weir without what its role decides: names of the role and of its service, ports, and where its data lie."""
    container = dict(pod["containers"][0])
    container["env"] = [entry for entry in container["env"] if entry["name"] not in ("WEIR_ROLES", "POD_SERVICE")]
    del container["ports"]
    volumes = [volume for volume in pod["volumes"] if volume["name"] != "data"]
    spread = [{**rule, "labelSelector": None} for rule in pod["topologySpreadConstraints"]]
    return {**pod, "containers": [container, *pod["containers"][1:]], "volumes": volumes, "topologySpreadConstraints": spread}


def check(objects):
    faults = []
    # Terraform cannot share a pod between a Deployment and a StatefulSet.
    pods = {f"{o['kind']} {o['metadata']['name']}": shape(o["spec"]["template"]["spec"]) for o in objects
            if o["kind"] in ("Deployment", "StatefulSet") and o["metadata"].get("labels", {}).get("app.kubernetes.io/name") == "weir"}
    for where, pod in pods.items():
        first, other = next(iter(pods.items()))
        odd = sorted(key for key in pod.keys() | other.keys() if pod.get(key) != other.get(key))
        faults.extend(f"{where}: {key} is not as in {first}" for key in odd)
    for sent in objects:
        kind, name = sent["kind"], sent["metadata"]["name"]
        where = f"{kind} {name}"
        try:
            kubernetes_validate.validate(sent, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            faults.append(f"{where}: {error.message} at {list(error.path)}")
        if kind in ("Deployment", "StatefulSet"):
            pod = sent["spec"]["template"]["spec"]
            faults.extend(restricted(pod, where))
            if sent["metadata"].get("labels", {}).get("app.kubernetes.io/name") == "weir":
                faults.extend(weir(kind, pod, where))
    return faults


def apply(folder, host, arguments, sent):
    environment = dict(os.environ, KUBE_HOST=host, TF_IN_AUTOMATION="1")
    if any('variable "kubeconfig"' in file.read_text() for file in folder.glob("*.tf")):
        cluster = {"clusters": [{"name": "c", "cluster": {"server": host}}], "users": [{"name": "u", "user": {}}]}
        cluster |= {"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"}
        (folder / "kubeconfig.json").write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **cluster}))
        arguments.append(f"kubeconfig={folder / 'kubeconfig.json'}")
    variables = [part for given in arguments for part in ("-var", given)]
    # Objects of an earlier run are gone.
    for old in folder.glob("terraform.tfstate*"):
        old.unlink()
    # Every provider comes from a folder: only modules need to be initialized.
    for words in (["get"], ["apply", "-auto-approve", "-input=false", "-no-color", *variables]):
        run = subprocess.run(["terraform", *words], cwd=folder, env=environment, capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"terraform {words[0]} in {folder}:\n{run.stdout[-4000:]}{run.stderr}")
    return [json.loads(file.read_text()) for file in sorted(sent.glob("*.json"))]


def main():
    arguments = sys.argv[1:]
    folder, expected = pathlib.Path(arguments.pop(0)), None
    if arguments[:1] == ["--expect-fault"]:
        arguments.pop(0)
        expected = arguments.pop(0)
    sent = tempfile.TemporaryDirectory()
    server = subprocess.Popen([os.environ["REMEMBERING_API"], sent.name], stdout=subprocess.PIPE, text=True)
    try:
        objects = apply(folder, f"http://{server.stdout.readline().strip()}", arguments, pathlib.Path(sent.name))
    finally:
        server.kill()
        server.wait()
    kinds = sorted(found["kind"] for found in objects)
    faults = check(objects)
    if expected is not None:
        if not any(expected in fault for fault in faults):
            sys.exit(f"a fault that says {expected!r} was expected, found: {faults}")
        print(f"found as it should be: {expected}")
        return
    if not {"Deployment", "StatefulSet", "NetworkPolicy", "PodDisruptionBudget"} <= set(kinds):
        sys.exit(f"not all was sent: {kinds}")
    if faults:
        sys.exit("\n".join(faults))
    print(f"{len(objects)} objects are as Kubernetes {VERSION} and `restricted` want them: {', '.join(kinds)}")


main()
