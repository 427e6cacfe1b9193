//! Compiles `weir/v1/*.proto` and `weir/internal/v1/*.proto` into Rust, without a protoc, and keeps
//! the descriptors of the former, comments included.

use std::path::PathBuf;
use std::{env, fs};

const FILES: [&str; 14] = [
    "weir/v1/options.proto",
    "weir/v1/types.proto",
    "weir/v1/device_service.proto",
    "weir/v1/telemetry_service.proto",
    "weir/v1/dead_letter_service.proto",
    "weir/v1/export_service.proto",
    "weir/v1/operations_service.proto",
    "weir/v1/broker_service.proto",
    "weir/v1/access_service.proto",
    "weir/v1/issuer_service.proto",
    "weir/v1/authority_service.proto",
    "weir/v1/tenant_service.proto",
    "weir/v1/group_service.proto",
    "weir/v1/audit_service.proto",
];

/// Files that are not part of the public API.
const INTERNAL: [&str; 1] = ["weir/internal/v1/fleet.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=weir");
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // The encoded form keeps the custom options, which prost's descriptor types would drop.
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    // First: the public messages that it imports are those of the module `v1`, and the code that is
    // generated for their package here is replaced below.
    tonic_prost_build::configure()
        .extern_path(".weir.v1", "crate::v1")
        .compile_fds(protox::compile(INTERNAL, ["."])?)?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
