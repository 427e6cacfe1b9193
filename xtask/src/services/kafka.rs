//! Apache Kafka from its Maven artifacts: a folder of jars and a script that runs them with a small
//! heap.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::clients::marked;
use crate::run;

/// Name of the script.
pub(super) const PROGRAM: &str = "kafka-server";
const KAFKA: &str = "4.1.1";
const COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// Copies the server and its runtime dependencies into `kafka` of the folder, and puts the script
/// beside it.
pub(super) fn install(folder: &Path) -> anyhow::Result<()> {
    let home = folder.join("kafka");
    std::fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
    marked(&home, KAFKA, || {
        let jars = home.join("jars");
        if jars.exists() {
            std::fs::remove_dir_all(&jars).with_context(|| format!("empty {}", jars.display()))?;
        }
        std::fs::write(home.join("pom.xml"), pom())?;
        let output = format!("-DoutputDirectory={}", std::path::absolute(&jars)?.display());
        run(Command::new("mvn").args(["-q", "-B", COPY, "-DincludeScope=runtime", &output]).current_dir(&home))
            .context("Kafka needs Maven and a Java runtime (17 or later)")
    })?;
    // The script gets its final name once the jars are complete.
    let (part, script) = (folder.join("kafka-server.part"), folder.join(PROGRAM));
    std::fs::write(&part, SCRIPT).with_context(|| format!("write {}", part.display()))?;
    std::fs::set_permissions(&part, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(&part, &script).with_context(|| format!("rename to {}", script.display()))
}

/// `kafka-server run PROPERTIES` or `kafka-server format PROPERTIES CLUSTER_ID`. The process keeps
/// the id of the script.
const SCRIPT: &str = r#"#!/bin/sh
home=$(cd "$(dirname "$0")" && pwd)/kafka
java() {
  exec java -Xms192m -Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \
    -cp "$home/jars/*" "$@"
}
chore=$1
shift
case $chore in
  run) java kafka.Kafka "$1" ;;
  format) java kafka.tools.StorageTool format --config "$1" --cluster-id "$2" ;;
  *) echo "usage: kafka-server run PROPERTIES | format PROPERTIES CLUSTER_ID" >&2; exit 2 ;;
esac
"#;

/// The server and a logger; without one it prints nothing.
const ARTIFACTS: [(&str, &str, &str); 2] =
    [("org.apache.kafka", "kafka_2.13", KAFKA), ("org.slf4j", "slf4j-simple", "1.7.36")];

fn pom() -> String {
    let dependency = |(group, artifact, version)| {
        format!(
            "    <dependency>\n      <groupId>{group}</groupId>\n      <artifactId>{artifact}</artifactId>\n      \
             <version>{version}</version>\n    </dependency>\n"
        )
    };
    format!(
        "<project>\n  <modelVersion>4.0.0</modelVersion>\n  <groupId>weir</groupId>\n  \
         <artifactId>kafka-server</artifactId>\n  <version>1</version>\n  <packaging>pom</packaging>\n  \
         <dependencies>\n{}  </dependencies>\n</project>\n",
        ARTIFACTS.map(dependency).concat()
    )
}
