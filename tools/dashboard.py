#!/usr/bin/env python3
"""Write share/grafana/precis.json, the dashboard for Grafana (10 and later), from the table below.

    tools/dashboard.py           write it
    tools/dashboard.py --check   fail when the file is not what this would write
"""
import json
import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "share/grafana/precis.json"
SOURCE = {"type": "prometheus", "uid": "${source}"}
WHERE = 'instance=~"$instance"'
MODEL = WHERE + ',model=~"$model"'
LEVELS = {"2": ("int2", "red"), "4": ("int4", "orange"), "8": ("int8", "green"), "16": ("fp16", "blue")}


def rate(metric, by="", where=WHERE):
    return "sum by (%s) (rate(%s{%s}[$__rate_interval]))" % (by, metric, where)


def quantiles(metric):
    return [("histogram_quantile(%s, %s)" % (q, rate(metric + "_bucket", "le", MODEL)), "p%d" % (q * 100))
            for q in (0.5, 0.95, 0.99)]


# Title, kind, unit, width in 24ths, height, queries (expression, legend), what it tells.
ROWS = [
    ("Now", [
        ("Memory used", "gauge", "percentunit", 4, 5, [("precis_memory_used_ratio{%s}" % WHERE, "{{instance}}")],
         "Of the limit, by everybody. Levels fall from 60%, measures of the guard begin at 80%."),
        ("Tokens a second", "stat", "short", 4, 5, [("sum(precis_tokens_per_second{%s})" % WHERE, "")], ""),
        ("Running", "stat", "short", 4, 5, [("sum(precis_requests_running{%s})" % WHERE, "")], ""),
        ("Waiting", "stat", "short", 4, 5, [("sum(precis_requests_waiting{%s})" % WHERE, "")], ""),
        ("First token, p95", "stat", "s", 4, 5, [quantiles("precis_time_to_first_token_seconds")[1]], ""),
        ("Alerts", "stat", "short", 4, 5, [("sum(precis_alert_firing{%s}) or vector(0)" % WHERE, "")],
         "Rules of the configuration that fire."),
    ]),
    ("Levels", [
        ("Level of each model", "state-timeline", "none", 24, 7, [
            (" or ".join("(%s * (precis_model_level{%s,level=\"%s\"} == 1))" % (bits, MODEL, name)
                         for bits, (name, _) in LEVELS.items()), "{{model}}")],
         "Where each model stood: fp16, int8, int4 or int2."),
        ("Weights by plane", "timeseries", "bytes", 12, 8, [("precis_model_plane_bytes{%s}" % MODEL, "{{model}} {{plane}}")],
         "Bytes of each plane in memory."),
        ("Moves by cause", "timeseries", "short", 12, 8, [
            ("sum by (direction, cause) (increase(precis_moves_total{%s}[$__rate_interval])) > 0" % WHERE,
             "{{direction}}: {{cause}}")], "Changes of level, and why."),
    ]),
    ("Memory", [
        ("By purpose", "timeseries", "bytes", 12, 8, [("precis_memory_ledger_bytes{%s}" % WHERE, "{{tag}}")],
         "What the program holds, from its own ledger."),
        ("Resident, peak and limit", "timeseries", "bytes", 6, 8, [
            ("process_resident_memory_bytes{%s}" % WHERE, "resident"), ("precis_memory_peak_bytes{%s}" % WHERE, "peak"),
            ("precis_memory_limit_bytes{%s}" % WHERE, "limit")], ""),
        ("Pressure and guard", "timeseries", "percentunit", 6, 8, [
            ("precis_memory_pressure_ratio{%s}" % WHERE, "stalled"), ("precis_memory_guard{%s}" % WHERE, "{{measure}}")],
         "Share of time in which a task stood still for memory; measures in force."),
    ]),
    ("Answers", [
        ("First token", "timeseries", "s", 8, 8, quantiles("precis_time_to_first_token_seconds"), "Queue and prefill in it."),
        ("Between tokens", "timeseries", "s", 8, 8, quantiles("precis_time_between_tokens_seconds"), ""),
        ("Whole answer", "timeseries", "s", 8, 8, quantiles("precis_request_seconds"), ""),
        ("Tokens a second", "timeseries", "short", 8, 8, [
            (rate("precis_generated_tokens_total", "model", MODEL), "{{model}} generated"),
            (rate("precis_prompt_tokens_total", "model", MODEL), "{{model}} prompt")], ""),
        ("Queue", "timeseries", "short", 8, 8, [
            ("precis_requests_running{%s}" % WHERE, "running"), ("precis_requests_waiting{%s}" % WHERE, "waiting"),
            ("precis_requests_parked{%s}" % WHERE, "parked"), ("precis_batch_size{%s}" % WHERE, "in the step")], ""),
        ("How answers end", "timeseries", "short", 8, 8, [(rate("precis_answers_total", "finish", MODEL), "{{finish}}")], ""),
    ]),
    ("Caches and KV", [
        ("Found in caches", "timeseries", "percentunit", 8, 8, [
            ("%s / (%s + %s)" % (rate("precis_cache_hits_total", "cache"), rate("precis_cache_hits_total", "cache"),
                                 rate("precis_cache_misses_total", "cache")), "{{cache}}")], ""),
        ("Bytes in caches", "timeseries", "bytes", 8, 8, [("precis_cache_bytes{%s}" % WHERE, "{{cache}}")], ""),
        ("KV pages", "timeseries", "bytes", 8, 8, [
            ("precis_kv_bytes{%s}" % WHERE, "used"), ("precis_prefix_bytes{%s}" % WHERE, "kept prefixes"),
            ("precis_kv_bytes_max{%s}" % WHERE, "most")], ""),
    ]),
    ("HTTP", [
        ("Requests by status", "timeseries", "reqps", 12, 8, [(rate("precis_http_requests_total", "status"), "{{status}}")], ""),
        ("Requests by route", "timeseries", "reqps", 12, 8, [
            (rate("precis_http_requests_total", "method, route"), "{{method}} {{route}}")], ""),
    ]),
]


def panel(number, spec, x, y):
    title, kind, unit, w, h, queries, told = spec
    defaults = {"unit": unit, "min": 0}
    options = {}
    if kind == "state-timeline":
        defaults = {"unit": unit, "mappings": [{"type": "value", "options": {
            bits: {"text": name, "color": color, "index": i} for i, (bits, (name, color)) in enumerate(LEVELS.items())}}]}
        options = {"showValue": "auto", "rowHeight": 0.9}
    elif kind == "gauge":
        defaults.update(max=1, thresholds={"mode": "absolute", "steps": [
            {"color": "green", "value": None}, {"color": "yellow", "value": 0.6}, {"color": "orange", "value": 0.8},
            {"color": "red", "value": 0.9}]})
    elif kind == "timeseries":
        stacked = title in ("By purpose", "Weights by plane")
        defaults["custom"] = {"fillOpacity": 25 if stacked else 8, "stacking": {"mode": "normal" if stacked else "none"}}
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    return {"id": number, "title": title, "description": told, "type": kind, "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": w, "h": h}, "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": options,
            "targets": [{"refId": chr(65 + i), "datasource": SOURCE, "expr": e, "legendFormat": legend}
                        for i, (e, legend) in enumerate(queries)]}


def variable(name, metric):
    query = "label_values(%s, %s)" % (metric, name)
    return {"name": name, "label": name.capitalize(), "type": "query", "datasource": SOURCE, "definition": query,
            "query": {"query": query, "refId": name}, "refresh": 2, "includeAll": True, "multi": True,
            "current": {"text": "All", "value": "$__all"}}


def dashboard():
    panels, y = [], 0
    for title, specs in ROWS:
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        y, x, tall = y + 1, 0, 0
        for spec in specs:
            if x + spec[3] > 24:
                x, y, tall = 0, y + tall, 0
            panels.append(panel(len(panels) + 1, spec, x, y))
            x, tall = x + spec[3], max(tall, spec[4])
        y += tall
    return {"title": "precis", "uid": "precis", "tags": ["precis", "llm"], "schemaVersion": 38, "version": 1,
            "editable": True, "refresh": "10s", "time": {"from": "now-1h", "to": "now"}, "timezone": "browser",
            "templating": {"list": [
                {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}},
                variable("instance", "precis_build_info"), variable("model", "precis_model_bytes")]},
            "panels": panels}


def main():
    text = json.dumps(dashboard(), indent=1) + "\n"
    if "--check" in sys.argv[1:]:
        return 0 if TARGET.exists() and TARGET.read_text() == text else "share/grafana/precis.json is old: run tools/dashboard.py"
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
