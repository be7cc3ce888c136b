//! Sets of snapshots as if they had been taken, sent and confirmed.

use serde_json::{Value, json};

use super::http::Request;
use super::{Reach, State, plugin};

impl State {
    /// A set of each application whose master this node is, on its slave, where both can look at their snapshots and nothing is at work on it.
    pub fn confirm_sets(&mut self, node: &str) {
        let records: Vec<(String, Value)> = self.keys("app/").into_iter().filter_map(|key| Some((key.clone(), self.kv(&key)?))).collect();
        for (key, record) in records {
            let name = key.trim_start_matches("app/");
            let slave = record["slave"].as_str().unwrap_or_default();
            let looks = |node: &str| {
                let fine = self.nodes.get(node).is_some_and(|n| n.reach == Reach::Fine && !n.no_snapshots_seen) && self.has_leader(node);
                fine && self.kv(&format!("node/{node}")).is_some_and(|about| about["confirms"] == true)
            };
            let ordered = self.keys("order/").iter().any(|key| self.store.text(key).is_some_and(|order| order.contains(name)));
            if record["master"] != node || !looks(node) || !looks(slave) || ordered || !self.reachable(node, slave) {
                continue;
            }
            if let Some(set) = self.send_set(node, slave, &record) {
                self.sync_snapshots(slave);
                let replica = json!({"last": set, "every": 15, "keep": "1h:1d:1w:4w:1y"});
                self.store.set(&format!("replica/{name}/{slave}"), replica.to_string().as_bytes());
            }
        }
    }

    /// What it is in Consul; none where something did not arrive.
    pub fn send_set(&mut self, node: &str, to: &str, record: &Value) -> Option<Value> {
        let taken = self.now(node);
        let mut snapshots = json!({});
        for volume in record["volumes"].as_array()?.iter().filter_map(Value::as_str) {
            let content = self.nodes[node].plugin.volumes.get(volume)?.clone();
            let snapshot = self.snapshot(node, volume, content);
            snapshots[volume] = json!({"snapshot": snapshot, "uuid": self.nodes[node].plugin.subvolumes[&snapshot].uuid});
            let body = json!({"Name": snapshot, "Host": self.nodes[to].addr}).to_string();
            plugin::answer(self, node, &Request::new("POST", "/VolumeDriver.Snapshot.Send", body.as_bytes()));
            self.nodes[to].plugin.snapshots.get(&snapshot)?;
        }
        let data_id = record.get("data_id").filter(|id| !id.is_null()).unwrap_or(&record["deploy_id"]);
        let boot = self.kv(&format!("node/{to}")).map_or(Value::Null, |about| about["boot"].clone());
        Some(json!({
            "snapshots": snapshots, "taken": format!("{}Z", &taken[..19]), "master": node, "deploy_id": record["deploy_id"], "data_id": data_id,
            "boot": boot.as_str().unwrap_or_default(), "millis": 1200,
        }))
    }
}
