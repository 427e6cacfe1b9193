//! Deletion of a tenant's points by their tag.

use model::TimeRange;
use weir_stores::contract::Export;

use crate::data::{MILLI, T, block, device, float, int};
use crate::server::influxd;
use crate::{deliver, open};

const WEEK: i64 = 7 * 24 * 3600 * model::time::SECOND;

#[tokio::test]
async fn a_tenant_leaves_the_bucket_week_by_week_and_no_other_loses_a_point() {
    let Some(server) = influxd().await else { return };
    let points = open(server.config());
    let tenants = ["north", "nort", "north.2", "a \"quoted\" one", "back\\slash", "o'clock"];
    for tenant in tenants {
        let rows = [0, 1].map(|after| (T + after * MILLI, None, vec![("v", float(0.5))]));
        let other = [(T + 5, None, vec![("w", int(1))])];
        let blocks = vec![block(&device(tenant, "d1"), &rows), block(&device(tenant, "d2"), &other)];
        deliver(&points, blocks).await.unwrap();
        let late = [(T + 3 * WEEK, None, vec![("v", float(2.0))])];
        deliver(&points, vec![block(&device(tenant, "d1"), &late)]).await.unwrap();
    }
    for (gone, tenant) in tenants.iter().enumerate().filter(|(gone, _)| gone % 2 == 0 || *gone == 3) {
        let held = points.count_of(tenant).await.unwrap().unwrap();
        assert_eq!(held, 4, "{tenant}");
        let mut slices = 0;
        while points.delete_some_of(tenant).await.unwrap().unwrap() {
            slices += 1;
            assert!(slices < 10, "{gone}: the points of {tenant} do not leave");
        }
        assert_eq!((slices, points.count_of(tenant).await.unwrap()), (2, Some(0)), "{tenant}");
    }
    let left: Vec<(String, u64)> = points
        .count(TimeRange::ALL)
        .await
        .unwrap()
        .unwrap()
        .into_iter()
        .map(|(tenant, count)| (tenant.to_string(), count))
        .collect();
    assert_eq!(left, [("nort".to_owned(), 4), ("o'clock".to_owned(), 4)]);
}
