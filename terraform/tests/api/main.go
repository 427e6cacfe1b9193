// A recording API server: posted objects can be read back and workloads can be listed, and all are
// written to a folder as JSON. The provider sends protobuf, which the decoders of Kubernetes read.
//
// usage: api FOLDER
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	apps "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
)

// resources of the API with which a client finds the path of a kind, and reads lists of it.
var resources = map[string]metav1.APIResource{
	"apps/v1/deployments":                               {Name: "deployments", Namespaced: true, Kind: "Deployment"},
	"apps/v1/statefulsets":                              {Name: "statefulsets", Namespaced: true, Kind: "StatefulSet"},
	"apiextensions.k8s.io/v1/customresourcedefinitions": {Name: "customresourcedefinitions", Kind: "CustomResourceDefinition"},
}

// discovery is the answers by path that do not depend on objects.
func discovery() map[string]any {
	groups := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
	// Types of members that a workload always has: the provider keeps these of an object.
	text := map[string]any{"type": "string"}
	object := func(members map[string]any) map[string]any {
		return map[string]any{"type": "object", "properties": members}
	}
	workload := map[string]any{
		"apiVersion": text, "kind": text, "metadata": object(map[string]any{"name": text, "namespace": text}),
		"spec": object(map[string]any{"replicas": map[string]any{"type": "integer", "format": "int32"}}),
	}
	definitions, lists := map[string]any{}, map[string]any{}
	for path, resource := range resources {
		resource.Verbs = metav1.Verbs{"get", "list"}
		group, version := filepath.Split(filepath.Dir(path))
		group = strings.TrimSuffix(group, "/")
		key := fmt.Sprintf("/apis/%s/%s", group, version)
		list, known := lists[key].(metav1.APIResourceList)
		if !known {
			list = metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: group + "/" + version}
			served := metav1.GroupVersionForDiscovery{GroupVersion: list.GroupVersion, Version: version}
			groups.Groups = append(groups.Groups, metav1.APIGroup{Name: group, Versions: []metav1.GroupVersionForDiscovery{served}, PreferredVersion: served})
		}
		list.APIResources = append(list.APIResources, resource)
		lists[key] = list
		definition := object(workload)
		definition["x-kubernetes-group-version-kind"] = []schema.GroupVersionKind{{Group: group, Version: version, Kind: resource.Kind}}
		definitions[resource.Kind] = definition
	}
	lists["/version"] = map[string]string{"major": "1", "minor": "33", "gitVersion": "v1.33.0"}
	lists["/api"] = metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}}
	lists["/apis"] = groups
	lists["/openapi/v2"] = map[string]any{"swagger": "2.0", "definitions": definitions}
	return lists
}

type server struct {
	folder    string
	discovery map[string]any
	mutex     sync.Mutex
	objects   map[string][]byte
}

// fill adds defaults of a cluster that the provider depends on.
func fill(object runtime.Object) {
	one := int32(1)
	switch object := object.(type) {
	case *apps.Deployment:
		if object.Spec.Replicas == nil {
			object.Spec.Replicas = &one
		}
	case *apps.StatefulSet:
		if object.Spec.Replicas == nil {
			object.Spec.Replicas = &one
		}
	}
}

func (s *server) post(path string, request *http.Request) (int, []byte, error) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return 0, nil, err
	}
	object, kind, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		return 0, nil, err
	}
	object.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind(*kind))
	sent, err := json.Marshal(object)
	if err != nil {
		return 0, nil, err
	}
	about, err := meta.Accessor(object)
	if err != nil {
		return 0, nil, err
	}
	file := fmt.Sprintf("%s-%s.json", kind.Kind, about.GetName())
	if err := os.WriteFile(filepath.Join(s.folder, file), sent, 0o600); err != nil {
		return 0, nil, err
	}
	fill(object)
	about.SetUID("00000000-0000-0000-0000-000000000000")
	about.SetResourceVersion("1")
	about.SetGeneration(1)
	kept, err := json.Marshal(object)
	s.objects[path+"/"+about.GetName()] = kept
	return http.StatusCreated, kept, err
}

// list returns the objects below a path, of one kind.
func (s *server) list(kind string, request *http.Request) any {
	items := []json.RawMessage{}
	name, named := strings.CutPrefix(request.URL.Query().Get("fieldSelector"), "metadata.name=")
	for path, object := range s.objects {
		if filepath.Dir(path) == request.URL.Path && (!named || filepath.Base(path) == name) {
			items = append(items, object)
		}
	}
	return map[string]any{"apiVersion": "v1", "kind": kind + "List", "metadata": map[string]string{}, "items": items}
}

// get returns the answer to a path without an object of its own, or nil.
func (s *server) get(request *http.Request) any {
	if found, there := s.discovery[request.URL.Path]; there {
		return found
	}
	for path, resource := range resources {
		if strings.HasPrefix(request.URL.Path, "/apis/"+filepath.Dir(path)+"/") && filepath.Base(request.URL.Path) == resource.Name {
			return s.list(resource.Kind, request)
		}
	}
	return nil
}

func (s *server) ServeHTTP(answer http.ResponseWriter, request *http.Request) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	code, body := http.StatusNotFound, []byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
	switch {
	case request.Method == http.MethodPost:
		var err error
		if code, body, err = s.post(request.URL.Path, request); err != nil {
			log.Printf("%s: %v", request.URL.Path, err)
			http.Error(answer, err.Error(), http.StatusBadRequest)
			return
		}
	default:
		if found, there := s.objects[request.URL.Path]; there {
			code, body = http.StatusOK, found
		} else if found := s.get(request); found != nil {
			var err error
			if body, err = json.Marshal(found); err != nil {
				log.Fatal(err)
			}
			code = http.StatusOK
		}
	}
	answer.Header().Set("Content-Type", "application/json")
	answer.WriteHeader(code)
	if _, err := answer.Write(body); err != nil {
		log.Print(err)
	}
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	log.Fatal(http.Serve(listener, &server{folder: os.Args[1], discovery: discovery(), objects: map[string][]byte{}}))
}
