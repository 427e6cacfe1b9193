//! Exports: listed, paused, resumed, rewound.

use std::time::Duration;

use api::{ExportError, ExportLogStatus, ExportState, ExportStatus};
use model::time::SECOND;
use proto::v1::export::State;
use proto::v1::{
    Export, ListExportsRequest, PauseExportRequest, ResumeExportRequest, RewindExportRequest, RewindExportResponse,
};
use tonic::{Code, Status};

use crate::world::{World, assert_status, nanos, now, timestamp};

fn log(name: &str, state: ExportState, lag_seconds: u64) -> ExportLogStatus {
    ExportLogStatus {
        log: name.to_owned(),
        state,
        done_to: 100,
        lag_records: 10,
        lag_bytes: 500,
        lag: Duration::from_secs(lag_seconds),
        dead_letters: 1,
    }
}

fn export(name: &str, logs: Vec<ExportLogStatus>) -> ExportStatus {
    ExportStatus { name: name.into(), kind: "influxdb".to_owned(), filter: String::new(), paused: false, logs }
}

async fn world() -> World {
    let world = World::start().await;
    let away = ExportState::Retrying("InfluxDB does not answer".to_owned());
    *world.exports.exports.lock() = vec![
        export("influxdb", vec![log("a", ExportState::Running, 0), log("b", away, 7)]),
        export("events", vec![log("a", ExportState::Running, 0)]),
    ];
    world
}

async fn list(world: &World) -> Result<Vec<Export>, Status> {
    Ok(world.export_service().list_exports(ListExportsRequest {}).await?.into_inner().exports)
}

async fn pause(world: &World, name: &str) -> Result<Export, Status> {
    Ok(world.export_service().pause_export(PauseExportRequest { name: name.to_owned() }).await?.into_inner())
}

async fn rewind(world: &World, name: &str, to: i64) -> Result<RewindExportResponse, Status> {
    let request = RewindExportRequest { name: name.to_owned(), to_time: Some(timestamp(to)) };
    Ok(world.export_service().rewind_export(request).await?.into_inner())
}

#[tokio::test]
async fn exports_are_listed_by_name_with_the_sum_of_their_logs() {
    let world = world().await;
    let exports = list(&world).await.unwrap();
    let names: Vec<&str> = exports.iter().map(|export| export.name.as_str()).collect();
    assert_eq!(names, ["exports/events", "exports/influxdb"]);
    let influxdb = &exports[1];
    assert_eq!((influxdb.lag_records, influxdb.lag_bytes, influxdb.dead_letter_count), (20, 1000, 2));
    assert_eq!((influxdb.state(), influxdb.reason.as_str()), (State::Retrying, "InfluxDB does not answer"));
    assert_eq!(influxdb.lag.as_ref().map(|lag| lag.seconds), Some(7));
    let logs: Vec<(&str, State)> = influxdb.logs.iter().map(|log| (log.log.as_str(), log.state())).collect();
    assert_eq!(logs, [("a", State::Running), ("b", State::Retrying)]);
    assert_eq!((exports[0].state(), exports[0].lag), (State::Running, None), "nothing is late");
}

#[tokio::test]
async fn a_paused_export_stays_paused_until_it_is_resumed() {
    let world = world().await;
    assert_eq!(pause(&world, "exports/influxdb").await.unwrap().state(), State::Paused);
    assert_eq!(pause(&world, "exports/influxdb").await.unwrap().state(), State::Paused, "again");
    let exports = list(&world).await.unwrap();
    assert_eq!((exports[0].state(), exports[1].state()), (State::Running, State::Paused));
    assert!(exports[1].logs.iter().all(|log| log.state() == State::Paused));
    let request = ResumeExportRequest { name: "exports/influxdb".to_owned() };
    let resumed = world.export_service().resume_export(request).await.unwrap().into_inner();
    assert_eq!(resumed.state(), State::Retrying);
}

#[tokio::test]
async fn an_unknown_export_is_answered_with_the_known_names() {
    let world = world().await;
    let unknown = pause(&world, "exports/kafka").await.unwrap_err();
    assert_status(&unknown, Code::NotFound, "EXPORT_NOT_FOUND");
    assert!(unknown.message().contains("`influxdb`") && unknown.message().contains("`events`"), "{unknown}");
    assert_status(&rewind(&world, "exports/kafka", 1).await.unwrap_err(), Code::NotFound, "EXPORT_NOT_FOUND");
    for name in ["", "influxdb", "exports/", "exports/a/b", "exports/%zz"] {
        assert_status(&pause(&world, name).await.unwrap_err(), Code::InvalidArgument, "FIELD_INVALID");
    }
}

#[tokio::test]
async fn a_rewind_before_what_the_logs_hold_answers_where_it_really_begins() {
    let world = world().await;
    let start = now() - 60 * SECOND;
    *world.exports.log_starts.lock() = start;
    let whole = rewind(&world, "exports/events", start + SECOND).await.unwrap();
    assert_eq!((nanos(whole.start_time.as_ref().unwrap()), whole.truncated), (start + SECOND, false));
    assert_eq!(whole.export.unwrap().logs[0].done_offset, 0);
    let cut = rewind(&world, "exports/events", start - SECOND).await.unwrap();
    assert_eq!((nanos(cut.start_time.as_ref().unwrap()), cut.truncated), (start, true));
    let future = rewind(&world, "exports/events", now() + 60 * SECOND).await.unwrap_err();
    assert_status(&future, Code::InvalidArgument, "FIELD_INVALID");
    let request = RewindExportRequest { name: "exports/events".to_owned(), to_time: None };
    let missing = world.export_service().rewind_export(request).await.unwrap_err();
    assert_status(&missing, Code::InvalidArgument, "FIELD_INVALID");
}

#[tokio::test]
async fn exports_that_cannot_be_reached_are_unavailable() {
    let world = world().await;
    *world.exports.error.lock() = Some(ExportError::Unavailable("Redis does not answer".to_owned()));
    let status = list(&world).await.unwrap_err();
    assert_status(&status, Code::Unavailable, "EXPORTS_UNAVAILABLE");
    assert!(status.message().contains("Redis does not answer"), "{status}");
}
