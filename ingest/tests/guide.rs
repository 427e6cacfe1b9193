//! The examples of the guide hold.

use weir_ingest::{Route, Routes};

#[derive(serde::Deserialize)]
struct File {
    route: Vec<Route>,
}

#[test]
fn every_route_of_the_guide_is_a_good_one() {
    let guide = include_str!("../../docs/guides/routes.md");
    let blocks = guide.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut routes = 0;
    for block in blocks.filter(|block| block.contains("[[route]]")) {
        let file: File = toml::from_str(block).unwrap_or_else(|error| panic!("{block}\n{error}"));
        routes += file.route.len();
        Routes::new(&file.route).unwrap_or_else(|error| panic!("{block}\n{error}"));
    }
    assert_eq!(routes, 16);
}

#[test]
fn the_guide_has_every_key() {
    let guide = include_str!("../../docs/guides/routes.md");
    for key in toml::Table::try_from(Route::default()).unwrap().keys() {
        assert!(guide.contains(&format!("`{key}`")), "{key}");
    }
}
