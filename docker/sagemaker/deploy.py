# SPDX-License-Identifier: Apache-2.0
r"""Creates a SageMaker endpoint with this server: model, endpoint configuration, endpoint; then asks it once.

    python docker/sagemaker/deploy.py --name my-llm --image ACCOUNT.dkr.ecr.REGION.amazonaws.com/lmi-server:cuda \
        --role arn:aws:iam::ACCOUNT:role/ROLE --model s3://BUCKET/PREFIX/ --instance ml.g6.2xlarge

The prefix holds the model's files as they would lie in a directory (docker/sagemaker/README.md), not an archive.
Without `--model` the model is named by a variable: `--env HF_MODEL_ID=org/name`. Needs boto3 and AWS credentials.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3

_SETTINGS = Path(__file__).parents[2] / "configs/sagemaker.env"
_STARTUP_S = 1800
"""As long as OPTION_MODEL_LOADING_TIMEOUT in the settings."""


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and creates the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the endpoint, its configuration and the model")
    parser.add_argument("--image", required=True, help="the cuda image in ECR")
    parser.add_argument("--role", required=True, help="ARN of the role that SageMaker takes: may read image and model")
    parser.add_argument("--model", help="s3:// prefix with the model's files")
    parser.add_argument("--instance", default="ml.g6.2xlarge", help="instance type (%(default)s)")
    parser.add_argument("--count", type=int, default=1, help="number of instances (%(default)s)")
    parser.add_argument("--settings", type=Path, default=_SETTINGS, help="file of variables (configs/sagemaker.env)")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="a further variable")
    parser.add_argument("--region", help="default: that of your AWS settings")
    args = parser.parse_args(argv)
    if args.model is None and not any(item.startswith("HF_MODEL_ID=") for item in args.env):
        parser.error("give --model s3://BUCKET/PREFIX/ or --env HF_MODEL_ID=ORG/NAME")

    variables = read(args.settings.read_text().splitlines() + args.env)
    sagemaker = boto3.client("sagemaker", region_name=args.region)
    sagemaker.create_model(**model(args.name, args.image, args.role, args.model, variables))
    sagemaker.create_endpoint_config(**configuration(args.name, args.instance, args.count))
    sagemaker.create_endpoint(EndpointName=args.name, EndpointConfigName=args.name)
    print(f"{args.name}: waiting until it is in service; CloudWatch has its log, /aws/sagemaker/Endpoints/{args.name}")
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName=args.name, WaiterConfig={"Delay": 30, "MaxAttempts": 2 * _STARTUP_S // 30}
    )
    print(ask(args.name, "What is LoRA?", args.region))


def read(lines: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` lines; what begins with # is a comment."""
    pairs = [line.partition("=") for line in lines if line.strip() and not line.startswith("#")]
    return {name: value for name, _, value in pairs}


def model(name: str, image: str, role: str, prefix: str | None, variables: Mapping[str, str]) -> dict[str, Any]:
    """What SageMaker calls a model: the image, its variables, and the files to mount at /opt/ml/model."""
    container: dict[str, Any] = {"Image": image, "Environment": dict(variables)}
    if prefix is not None:
        source = {"S3Uri": f"{prefix.rstrip('/')}/", "S3DataType": "S3Prefix", "CompressionType": "None"}
        container["ModelDataSource"] = {"S3DataSource": source}
    return {"ModelName": name, "ExecutionRoleArn": role, "PrimaryContainer": container}


def configuration(name: str, instance: str, count: int) -> dict[str, Any]:
    """One variant, with time to download and load a large model."""
    variant = {
        "VariantName": "all",
        "ModelName": name,
        "InstanceType": instance,
        "InitialInstanceCount": count,
        "ModelDataDownloadTimeoutInSeconds": _STARTUP_S,
        "ContainerStartupHealthCheckTimeoutInSeconds": _STARTUP_S,
    }
    return {"EndpointConfigName": name, "ProductionVariants": [variant]}


def ask(name: str, text: str, region: str | None = None) -> str:
    """The text that the endpoint generates."""
    runtime = boto3.client("sagemaker-runtime", region_name=region)
    body = json.dumps({"inputs": text, "parameters": {"max_new_tokens": 40}})
    answer = runtime.invoke_endpoint(EndpointName=name, ContentType="application/json", Body=body)
    return str(json.loads(answer["Body"].read())["generated_text"])


if __name__ == "__main__":
    main()
