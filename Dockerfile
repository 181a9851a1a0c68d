# Every node of a cluster runs this: Python and Ray as constraints.txt has them, and the project.
#
#   docker build -t REGISTRY/raydistill:0.1.0 .                                                  # with CUDA
#   docker build --build-arg BASE=rayproject/ray:2.60.0-py311-cpu -t REGISTRY/raydistill:0.1.0-cpu .
#
# WEIGHTS: models on the Hugging Face hub, ID@REVISION, that come with the image, since every node needs those that a preset names:
#   docker build --build-arg WEIGHTS="stabilityai/sd-vae-ft-mse@main facebook/DiT-XL-2-256@refs/pr/1" -t REGISTRY/raydistill:0.1.0 .
ARG BASE=rayproject/ray:2.60.0-py311-gpu
FROM ${BASE}
WORKDIR /home/ray/raydistill
COPY --chown=ray:users pyproject.toml constraints.txt README.md LICENSE ./
COPY --chown=ray:users raydistill raydistill
COPY --chown=ray:users jobs jobs
RUN pip install --no-cache-dir -c constraints.txt -e .
ARG WEIGHTS=""
RUN for id in ${WEIGHTS}; do \
    hf download "${id%@*}" --revision "${id#*@}" --include "*.json" --include "*.safetensors" || exit 1; done
