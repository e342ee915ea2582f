from __future__ import annotations

from pathlib import Path

from spottune_trainer import compute

EPYC = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
flags\t\t: fpu avx2 fma avx512f rdrand avx512_bf16

processor\t: 1
vendor_id\t: other
"""
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd sve bf16\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"


def test_a_cpu_is_its_vendor_model_and_the_flags_that_choose_kernels() -> None:
    assert compute.cpu(EPYC) == "AuthenticAMD-25-17 avx2+fma+avx512f+avx512_bf16"
    assert compute.cpu(GRAVITON) == "0x41-0xd40 asimd+sve+bf16"


def test_a_gpu_is_its_model_and_driver(tmp_path: Path) -> None:
    gpu = tmp_path / "driver/nvidia/gpus/0000:01:00.0"
    gpu.mkdir(parents=True)
    (gpu / "information").write_text("Model: \t\t NVIDIA A10G\nIRQ: 1\n")
    (tmp_path / "driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue\n")
    assert compute.gpu(tmp_path) == "NVIDIA-A10G driver-550.54.15"


def test_without_a_device_node_a_driver_of_the_host_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "cpuinfo").write_text(EPYC)
    assert compute.accelerator(tmp_path, tmp_path / "dev").startswith("AuthenticAMD")


def test_the_class_names_all_that_decides_the_bits() -> None:
    own = compute.compute_class(threads=2, world_size=1, micro_batch_size=4, image_digest="sha256:ab")
    for part in ("accelerator=", "threads=2", "world=1", "microBatch=4", "image=sha256:ab", "torch=", "transformers=", "peft="):
        assert part in own


def test_threads_come_from_the_job_not_from_the_machine() -> None:
    environ = {"OMP_NUM_THREADS": "64", "PATH": "x"}
    compute.set_thread_environment(environ, 2, "/scratch")
    assert (environ["OMP_NUM_THREADS"], environ["OMP_WAIT_POLICY"], environ["HF_HOME"]) == ("2", "PASSIVE", "/scratch/huggingface")
