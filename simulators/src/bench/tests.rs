use super::payload::Payload;

#[test]
fn the_same_device_sends_the_same_values_in_every_run() {
    let values = |device| {
        let mut payload = Payload::new(device);
        let mut all = Vec::new();
        for _ in 0..50 {
            let mut text = Vec::new();
            payload.write(&mut text);
            let mut value: serde_json::Value = serde_json::from_slice(&text).unwrap();
            value.as_object_mut().unwrap().remove("ts");
            all.push(value);
        }
        all
    };
    assert_eq!(values(3), values(3));
    assert_ne!(values(3), values(4));
}
