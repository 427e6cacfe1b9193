//! Compiles `weir/v1/*.proto` into Rust and keeps the descriptors, comments included; and `weir/internal/v1/*.proto`. No protoc needed.

use std::path::PathBuf;
use std::{env, fs};

const FILES: [&str; 6] = [
    "weir/v1/options.proto",
    "weir/v1/types.proto",
    "weir/v1/device_service.proto",
    "weir/v1/telemetry_service.proto",
    "weir/v1/dead_letter_service.proto",
    "weir/v1/operations_service.proto",
];

/// Not described to third parties.
const INTERNAL: [&str; 1] = ["weir/internal/v1/fleet.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=weir");
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // The encoded form keeps the custom options, which prost's descriptor types would drop.
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    tonic_prost_build::configure().compile_fds(protox::compile(INTERNAL, ["."])?)?;
    Ok(())
}
