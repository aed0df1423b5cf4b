"""The tutorial of the cluster runs: every command of its page in order, on a real SLURM, with a small network and archives."""

from __future__ import annotations

from archives import write_imagenet
from pages import ROOT, blocks, commands
from runs import rows

# What makes the recipe small; nothing else of it is changed.
SMALL = {
    "network.name": "debug", "data.resolution": 32, "data.global_batch_size": 4, "data.batch_size": 2, "data.backend": "native",
    "schedule.epochs": 2, "schedule.warmup_epochs": 0, "optimizer.lr": 0.001, "compile.enabled": "false", "precision": "fp32",
}  # fmt: skip


def test_from_imagenets_archives_to_a_trained_network(cluster, run_command, tmp_path):
    write_imagenet(tmp_path)
    said = []
    for _, text in blocks(ROOT / "docs" / "tutorials" / "cluster.md", "bash"):
        for words in commands(text.replace("/data/", f"{tmp_path}/").replace("runs/v4", f"{tmp_path}/runs/v4")):
            if "imagenet_inception_v4" in words:
                words += [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]
            if words[0] == "sbatch":
                job = cluster.sbatch(*words[1:])
                assert job.wait() == "COMPLETED", job.log
                said.append(job.log)
            else:
                done = run_command(words[1:], cwd=tmp_path)
                assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
                said.append(done.stdout)
    _, _, leap, trained, evaluated, _ = said
    assert "2 nodes" in trained, trained
    assert "memory of a rank" in leap
    assert len(rows(tmp_path / "runs" / "v4", "eval")) == 2
    assert "debug on 6 images" in evaluated
    assert (tmp_path / "inception_v4.safetensors").is_file()
