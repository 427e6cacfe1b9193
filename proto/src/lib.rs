//! The public API, package `weir.v1`, as Rust types, clients and servers.
//!
//! Receives: `weir/v1/*.proto`, whose comments are the reference documentation.
//! Promises: the generated code is made from exactly these files, without a protoc on the machine.
//! Hands on: messages, service traits and clients in [`v1`]; the descriptors in
//! [`FILE_DESCRIPTOR_SET`].
//! Never: holds logic.

/// Messages, clients (`*_client`) and servers (`*_server`) of package `weir.v1`.
#[expect(clippy::allow_attributes_without_reason, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("weir.v1");
}

/// Calls between Weir's own processes.
pub mod internal {
    /// Messages, client and server of package `weir.internal.v1`.
    #[expect(clippy::allow_attributes_without_reason, reason = "generated code")]
    #[expect(missing_docs, reason = "the comments of the .proto file describe them")]
    pub mod v1 {
        tonic::include_proto!("weir.internal.v1");
    }
}

/// A `google.protobuf.FileDescriptorSet` of every public file and its imports, with comments and
/// custom options: for reflection and for reading the authorization rules.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
