from djl_python import Input, Output
from djl_python.encode_decode import decode
from djl_python.async_utils import create_non_stream_output
from vllm import LLM, SamplingParams

llm = None

async def handle(inputs: Input) -> Output:
    """Custom async handler with vLLM generate"""
    global llm
    
    # Initialize vLLM LLM if not already done
    if llm is None:
        properties = inputs.get_properties()
        model_id = properties.get("model_id", "gpt2")
        llm = LLM(model=model_id, tensor_parallel_size=1)
    
    # Parse input
    batch = inputs.get_batches()
    raw_request = batch[0]
    content_type = raw_request.get_property("Content-Type")
    decoded_payload = decode(raw_request, content_type)
    
    prompt = decoded_payload.get("inputs", "Hello")
    
    # Create sampling parameters
    sampling_params = SamplingParams(max_tokens=50, temperature=0.8)
    
    # Generate using vLLM
    outputs = llm.generate([prompt], sampling_params)
    generated_text = outputs[0].outputs[0].text if outputs else "No output"
    
    # Create response
    response = {
        "generated_text": generated_text
    }
    
    # Return properly formatted output
    return create_non_stream_output(response)
