// A recording API server: posted objects can be read back, and are written to a folder as JSON. The
// provider sends protobuf, which the decoders of Kubernetes read.
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
	"sync"

	apps "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
)

type server struct {
	folder  string
	mutex   sync.Mutex
	objects map[string][]byte
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
	case request.URL.Path == "/version":
		code, body = http.StatusOK, []byte(`{"major":"1","minor":"33","gitVersion":"v1.33.0"}`)
	default:
		if found, there := s.objects[request.URL.Path]; there {
			code, body = http.StatusOK, found
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
	log.Fatal(http.Serve(listener, &server{folder: os.Args[1], objects: map[string][]byte{}}))
}
