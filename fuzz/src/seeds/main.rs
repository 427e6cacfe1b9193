//! Writes the first inputs of the fuzz targets: valid packets of both versions of the protocol, and
//! valid headers, requests, records and payloads. `seeds FOLDER` makes a folder for each target.

mod packets;
mod texts;

use std::path::Path;

/// Inputs of one target.
type Inputs = Vec<Vec<u8>>;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).expect("seeds FOLDER");
    let of_targets: [(&str, Inputs); 12] = [
        ("frame", texts::frames()),
        ("grants", texts::grants()),
        ("letters", texts::letters()),
        ("packets", packets::packets()),
        ("payloads", texts::payloads()),
        ("proxy", texts::proxy()),
        ("records", packets::records()),
        ("routes", texts::routes()),
        ("sessions", packets::sessions()),
        ("subscriptions", texts::subscriptions()),
        ("upgrade", texts::upgrades()),
        ("websocket", packets::frames()),
    ];
    for (target, inputs) in of_targets {
        let folder = Path::new(&folder).join(target);
        std::fs::create_dir_all(&folder)?;
        for (number, input) in inputs.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number:03}")), input)?;
        }
    }
    Ok(())
}
